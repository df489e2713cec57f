package config

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// settings are the fields of a type that the file has names for.
type settings map[string]setting

type setting struct {
	index  []int
	needed bool
}

func fieldsOf(t reflect.Type) settings {
	s := settings{}
	if t.Kind() == reflect.Struct {
		for _, f := range reflect.VisibleFields(t) {
			name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name != "" && name != "-" && !strings.Contains(options, "inline") {
				s[name] = setting{f.Index, !strings.Contains(options, "omitempty")}
			}
		}
	}
	return s
}

// names are in the order in which the type has them.
func (s settings) names() []string {
	return slices.SortedFunc(maps.Keys(s), func(a, b string) int { return slices.Compare(s[a].index, s[b].index) })
}

// nameOf is what a person calls a mapping of type t.
func nameOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[File]():
		return "the file"
	case reflect.TypeFor[Settings]():
		return "defaults"
	case reflect.TypeFor[Tunnel](), reflect.TypeFor[Host]():
		return "a " + strings.ToLower(t.Name())
	}
	return strings.ToLower(t.Name())
}

// kindOf is what a person calls what is written.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of settings"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		return quoted(n.Value)
	}
	return "nothing"
}

// wanted is what to write where a value of type t belongs.
func wanted(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if c, ok := reflect.Zero(t).Interface().(choice); ok {
		return oneOf(c.Words())
	}
	if text, ok := wantedTexts[t]; ok {
		return text
	}
	switch t.Kind() {
	case reflect.Slice:
		return "a list, [" + strings.TrimPrefix(wanted(t.Elem()), "a ") + ", …]"
	case reflect.Struct:
		if names := fieldsOf(t).names(); len(names) <= 6 {
			return "settings: " + strings.Join(names, ", ")
		}
		return "settings, each as NAME: VALUE; see espalier config example full"
	case reflect.Uint16:
		return "a number to 65535"
	case reflect.Uint32:
		return "a number to 4294967295"
	case reflect.Uint64:
		return "a number"
	}
	return "a text"
}

// wantedTexts are examples of what has a form of its own.
var wantedTexts = map[reflect.Type]string{
	reflect.TypeFor[netip.Addr]():   "an address such as 192.168.1.64",
	reflect.TypeFor[netip.Prefix](): "10.1.0.0/16",
	reflect.TypeFor[[]uint16]():     "a list of ports, such as [22, 443]",
	reflect.TypeFor[[]Host]():       "a list of hosts, such as [{address: 192.168.1.64, dev: p4p1}, …]",
	reflect.TypeFor[[]Tunnel]():     "a list of tunnels, each beginning with \"- name:\"",
	reflect.TypeFor[[]Traffic]():    "a list, such as [tcp/22, icmp]",
	reflect.TypeFor[Traffic]():      "tcp, tcp/22, or {protocol: tcp, ports: [22]}",
	reflect.TypeFor[SSH]():          "where ssh is to go, such as root@db2",
	reflect.TypeFor[Encap]():        "none or udp",
	reflect.TypeFor[Soft]():         "a share such as 80%",
	reflect.TypeFor[Rotate]():       "a time such as 8h, or never",
	reflect.TypeFor[Duration]():     "a time such as 8h",
	reflect.TypeFor[Bytes]():        "an amount such as 64GiB",
	reflect.TypeFor[Percent]():      "a share such as 80%",
	reflect.TypeFor[Mark]():         "VALUE/MASK, such as 0x10/0xff",
	reflect.TypeFor[Window]():       "a number of packets, 32 to 4096, or auto",
	reflect.TypeFor[SAs]():          "auto, per-cpu, ports or a number",
	reflect.TypeFor[Protocol]():     "a protocol such as tcp",
}
