package main

import (
	"encoding"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"

	"espalier/config"
)

// fileSchema writes the JSON Schema of the file of tunnels from the types that it is read into, for
// people to docs/schema, and to config/schema.json, which is built into the binary.
func fileSchema(dir string) error {
	comments := jsonschema.Reflector{}
	if err := comments.AddGoComments("espalier", "./config"); err != nil {
		return err
	}
	schema := schemaOf(reflect.TypeFor[config.File](), comments.CommentMap)
	schema.Version = jsonschema.Version
	schema.Title = "espalier/config-file/v1"
	b, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return err
	}
	for _, file := range []string{filepath.Join(dir, "config-file.v1.json"), "config/schema.json"} {
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// schemaOf is the schema of a group of settings.
func schemaOf(group reflect.Type, comments map[string]string) *jsonschema.Schema {
	r := jsonschema.Reflector{Anonymous: true, DoNotReference: true, FieldNameTag: "yaml"}
	r.LookupComment = func(t reflect.Type, field string) string {
		// A comment is of one paragraph; its lines are those of the source.
		return strings.ReplaceAll(comments[strings.TrimSuffix(t.PkgPath()+"."+t.Name()+"."+field, ".")], "\n", " ")
	}
	r.Mapper = func(t reflect.Type) *jsonschema.Schema {
		if t == group {
			return nil
		}
		if form, ok := forms[t]; ok {
			return form()
		}
		if c, ok := reflect.Zero(t).Interface().(interface{ Words() []string }); ok {
			return choiceOf(c.Words())
		}
		switch {
		case t.Kind() == reflect.Struct && reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
			short := &jsonschema.Schema{Type: "string"}
			return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{short, schemaOf(t, comments)}}
		case t.Kind() == reflect.Struct:
			return schemaOf(t, comments)
		case t.Kind() == reflect.Uint16:
			return number("0", "65535")
		case t.Kind() == reflect.Uint32:
			return number("0", "4294967295")
		}
		return nil
	}
	s := r.ReflectFromType(group)
	s.Version = ""
	return s
}

// forms are the values that are written in a way of their own.
var forms = map[reflect.Type]func() *jsonschema.Schema{
	reflect.TypeFor[netip.Addr]():      func() *jsonschema.Schema { return text(`^[0-9A-Fa-f.:]+$`) },
	reflect.TypeFor[netip.Prefix]():    func() *jsonschema.Schema { return text(`^[0-9A-Fa-f.:]+/[0-9]{1,3}$`) },
	reflect.TypeFor[config.Duration](): func() *jsonschema.Schema { return text(`^(never|([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?)$`) },
	reflect.TypeFor[config.Bytes]():    func() *jsonschema.Schema { return text(`^[0-9]+([KMGTP]i|[kMGTP])?B$`) },
	reflect.TypeFor[config.Percent]():  func() *jsonschema.Schema { return text(`^(100|[1-9][0-9]?)%$`) },
	reflect.TypeFor[config.Mark](): func() *jsonschema.Schema {
		return either(number("0", "4294967295"), text(`^(none|(0[xX])?[0-9A-Fa-f]+(/(0[xX])?[0-9A-Fa-f]+)?)$`))
	},
	reflect.TypeFor[config.Window](): func() *jsonschema.Schema { return either(number("32", "4096"), choiceOf([]string{"auto"})) },
	reflect.TypeFor[config.SAs](): func() *jsonschema.Schema {
		return either(number("1", "256"), choiceOf([]string{"auto", "per-cpu", "ports"}))
	},
	reflect.TypeFor[config.Protocol](): func() *jsonschema.Schema { return either(number("0", "255"), &jsonschema.Schema{Type: "string"}) },
}

func text(pattern string) *jsonschema.Schema {
	return &jsonschema.Schema{Type: "string", Pattern: pattern}
}

func number(least, most json.Number) *jsonschema.Schema {
	return &jsonschema.Schema{Type: "integer", Minimum: least, Maximum: most}
}

func either(of ...*jsonschema.Schema) *jsonschema.Schema { return &jsonschema.Schema{AnyOf: of} }

// choiceOf takes what YAML's readers make of on, off and no, too.
func choiceOf(words []string) *jsonschema.Schema {
	s := new(jsonschema.Schema)
	for _, w := range words {
		s.Enum = append(s.Enum, w)
	}
	if slices.Contains(words, "on") {
		s.Enum = append(s.Enum, true)
	}
	if slices.Contains(words, "off") || slices.Contains(words, "no") {
		s.Enum = append(s.Enum, false)
	}
	return s
}
