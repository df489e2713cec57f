package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// MaxSize is the largest file that is read, in bytes: some ten thousand tunnels.
const MaxSize = 2 << 20

// deepest nesting of YAML: the types need 7.
const deepest = 16

// Parse reads a file of that name, which is for messages only. All that is wrong with it comes
// back as Problems, in the order of the file; then there is no File.
func Parse(name string, text []byte) (*File, error) {
	d := decoder{name: name, places: places{}, known: map[reflect.Type]settings{}}
	root := d.load(text)
	if len(d.problems) > 0 {
		return nil, d.problems
	}
	d.defaults = valueOf(root, "defaults")
	f := &File{Name: name}
	d.value(root, reflect.ValueOf(f).Elem(), "")
	if d.nodes > mostNodes {
		return nil, Problems{ProblemAt(name, Position{1, 1}, fmt.Sprintf("with its aliases the file has more than %d values", mostNodes), "use fewer aliases, or several files")}
	}
	c := checker{file: f, places: d.places, problems: d.problems, told: map[Position]bool{}}
	for _, p := range d.problems {
		c.told[Position{p.Line, p.Column}] = true
	}
	c.resolve()
	if len(c.problems) > 0 {
		return nil, c.problems.sorted()
	}
	return f, nil
}

// load reads the text as YAML: one document, with settings in it.
func (d *decoder) load(text []byte) *yaml.Node {
	start := &yaml.Node{Line: 1, Column: 1}
	if len(text) > MaxSize {
		d.problem(start, fmt.Sprintf("the file has more than %d MiB", MaxSize>>20), "divide it into several")
		return nil
	}
	if at, bad := firstNoText(text); bad {
		d.problem(&yaml.Node{Line: at.Line, Column: at.Column}, "the file is no text in UTF-8", "save it as UTF-8, without control characters")
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithUniqueKeys(false), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(deepest))))
	if err != nil {
		d.problem(start, err.Error(), "")
		return nil
	}
	var document, another yaml.Node
	err = loader.Load(&document)
	switch {
	case errors.Is(err, io.EOF):
		d.problem(start, "the file is empty", "see espalier config example")
	case err != nil:
		d.syntax(err)
	case document.Kind != yaml.DocumentNode || len(document.Content) != 1:
		d.problem(start, "the file has no settings", "see espalier config example")
	default:
		if err := loader.Load(&another); err == nil {
			d.problem(&another, "a second document begins", "leave it out, or give it a file of its own")
		} else if !errors.Is(err, io.EOF) {
			d.syntax(err)
		}
		return document.Content[0]
	}
	return nil
}

// syntax tells what the YAML reader did not understand.
func (d *decoder) syntax(err error) {
	var e *yaml.LoadError
	if !errors.As(err, &e) {
		d.problem(&yaml.Node{Line: 1, Column: 1}, "this is no YAML: "+strings.TrimPrefix(err.Error(), "yaml: "), "")
		return
	}
	instead := "see espalier config example"
	for _, h := range syntaxHints {
		if strings.Contains(e.Message, h.part) {
			instead = h.instead
			break
		}
	}
	at := Position{max(e.Mark.Line, 1), max(e.Mark.Column, 1)}
	d.problems = append(d.problems, ProblemAt(d.name, at, "this is no YAML: "+e.Message, instead))
}

// firstNoText is where bytes stand that are not UTF-8, or control characters.
func firstNoText(text []byte) (Position, bool) {
	at := Position{1, 1}
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1, r < ' ' && r != '\n' && r != '\r' && r != '\t', r == 0x7f:
			return at, true
		case r == '\n':
			at = Position{at.Line + 1, 1}
		default:
			at.Column++
		}
		text = text[size:]
	}
	return at, false
}

// valueOf is the value of a mapping's key; nil if it has none that is a mapping itself.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		value := n.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if n.Content[i].Value == key && value.Kind == yaml.MappingNode {
			return value
		}
	}
	return nil
}

// syntaxHints are what to do about what the YAML reader says.
var syntaxHints = []struct{ part, instead string }{
	{"mapping values are not allowed", "check the indentation, and put a text that has \": \" in it in quotes"},
	{"cannot start any token", "indent with spaces, not tabs, and put texts with special characters in quotes"},
	{"did not find expected ',' or", "close the bracket or brace, with commas between its parts"},
	{"did not find expected '-'", "check the indentation: the items of a list begin in one column"},
	{"did not find expected key", "check the indentation: the settings of a group begin in one column"},
	{"could not find expected ':'", "write NAME: VALUE, one a line"},
	{"unknown anchor", "define it before by &NAME, or write the value out"},
	{"exceeded max depth", "nothing is nested that deeply: see espalier config example"},
	{"found unexpected end of stream", "close the quotes"},
	{"found incompatible YAML document", "leave the line out"},
	{"while scanning a simple key", "write NAME: VALUE, one a line"},
	{"block sequence entries are not al", "begin the list in a line of its own"},
}
