package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// mostNodes bounds what a file may grow to by its aliases.
const mostNodes = 300_000

// decoder fills the types of a File from YAML, and goes on after whatever is wrong.
type decoder struct {
	name     string // of the file
	problems Problems
	places   places
	defaults *yaml.Node // of the tunnels; nil: none
	nodes    int
	known    map[reflect.Type]settings
}

func (d *decoder) fieldsOf(t reflect.Type) settings {
	if d.known[t] == nil {
		d.known[t] = fieldsOf(t)
	}
	return d.known[t]
}

func (d *decoder) problem(at *yaml.Node, what, instead string) {
	d.problems = append(d.problems, ProblemAt(d.name, Position{at.Line, at.Column}, what, instead))
}

// value decodes n, which the file has at path, into v.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if d.nodes++; d.nodes > mostNodes {
		return // told at the end
	}
	d.places[path] = Position{n.Line, n.Column}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	what := lastOf(path)
	if n.Style&yaml.TaggedStyle != 0 {
		d.problem(n, fmt.Sprintf("%s has the tag %s", what, quoted(n.Tag)), "tags have no meaning here: leave it out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" && n.Style == 0 {
		instead := "write " + wanted(v.Type()) + ", or leave the line out"
		if path == "" {
			instead = "see espalier config example"
		}
		d.problem(n, what+" has no value", instead)
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	text, isText := v.Addr().Interface().(encoding.TextUnmarshaler)
	switch {
	case n.Kind == yaml.ScalarNode && isText:
		d.text(n, text)
	case n.Kind == yaml.ScalarNode && v.Kind() != reflect.Struct && v.Kind() != reflect.Slice:
		d.scalar(n, v, what)
	case n.Kind == yaml.SequenceNode && v.Kind() == reflect.Slice:
		d.list(n, v, path)
	case n.Kind == yaml.MappingNode && v.Kind() == reflect.Struct && len(d.fieldsOf(v.Type())) > 0:
		d.fields(n, v, path)
	default:
		d.problem(n, fmt.Sprintf("%s is %s", what, kindOf(n)), "write "+wanted(v.Type()))
	}
}

func (d *decoder) text(n *yaml.Node, into encoding.TextUnmarshaler) {
	var err error
	switch into := into.(type) {
	case *netip.Addr:
		*into, err = parseAddress(n.Value)
	case *netip.Prefix:
		*into, err = parseSubnet(n.Value)
	default:
		err = into.UnmarshalText([]byte(n.Value))
	}
	var w *wrong
	if errors.As(err, &w) {
		d.problem(n, w.what, w.instead)
	}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, what string) {
	if c, ok := v.Interface().(choice); ok {
		word, ok := chosen(c, n.Value)
		if !ok {
			d.problem(n, fmt.Sprintf("%s cannot be %s", what, quoted(n.Value)), "write "+oneOf(c.Words()))
		}
		v.SetString(word)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		number, err := strconv.ParseUint(n.Value, 0, v.Type().Bits())
		if err != nil {
			d.problem(n, fmt.Sprintf("%s is %s", what, quoted(n.Value)), "write "+wanted(v.Type()))
		}
		v.SetUint(number)
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if len(n.Content) == 0 {
		return // nil, as if left out
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		if d.nodes > mostNodes {
			return
		}
		d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
}

// fields decodes a mapping, and what a tunnel does not say itself from the defaults.
func (d *decoder) fields(n *yaml.Node, v reflect.Value, path string) {
	known := d.fieldsOf(v.Type())
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch before := first[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			d.problem(n.Content[i], "a key is "+kindOf(key), "write the name of a setting")
			continue
		case before != nil:
			d.problem(n.Content[i], fmt.Sprintf("%s is given twice, first in line %d", quoted(key.Value), before.Line), "leave one of them out")
			continue
		}
		first[key.Value] = n.Content[i]
		setting, ok := known[key.Value]
		if !ok {
			d.problem(n.Content[i], fmt.Sprintf("%s has no setting %s", nameOf(v.Type()), quoted(key.Value)), otherSetting(key.Value, known.names()))
			continue
		}
		d.value(n.Content[i+1], v.FieldByIndex(setting.index), join(path, key.Value))
	}
	for name, setting := range known {
		if setting.needed && first[name] == nil {
			d.problem(n, fmt.Sprintf("%s has no %s", nameOf(v.Type()), name), "add "+name+": "+wanted(v.Type().FieldByIndex(setting.index).Type))
		}
	}
	if v.Type() != reflect.TypeFor[Tunnel]() || d.defaults == nil {
		return
	}
	shared := d.fieldsOf(reflect.TypeFor[Settings]())
	for i := 0; i+1 < len(d.defaults.Content); i += 2 {
		key := d.defaults.Content[i].Value
		if _, ok := shared[key]; ok && first[key] == nil {
			d.value(d.defaults.Content[i+1], v.FieldByIndex(known[key].index), join(path, key))
		}
	}
}

func otherSetting(word string, known []string) string {
	if other, ok := otherWords[strings.ToLower(word)]; ok {
		return other
	}
	otherwise := "write one of " + strings.Join(known, ", ") + ", or leave it out"
	if len(known) > 6 {
		otherwise = "leave it out; espalier config example full has all there are"
	}
	return didYouMean(word, known, otherwise)
}

// places are where in the file values stand, by their paths: "tunnels[0].hosts[1].dev".
type places map[string]Position

// place is the part of the file that one value came from.
type place struct {
	in   places
	path string
}

// of is where a setting stands, or the nearest thing around it.
func (p place) of(setting string) Position {
	for path := join(p.path, setting); path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		if at, ok := p.in[path]; ok {
			return at
		}
	}
	return Position{}
}

func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "." + name
}

// lastOf is the name of what stands at path: of "tunnels[0].hosts[1]" hosts[1].
func lastOf(path string) string {
	if path == "" {
		return "the file"
	}
	return path[strings.LastIndexByte(path, '.')+1:]
}
