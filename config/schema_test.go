package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// TestSchema: the schema takes the examples and all that is written out, and refuses what is
// misspelt or of the wrong kind.
func TestSchema(t *testing.T) {
	var schema map[string]any
	d := json.NewDecoder(bytes.NewReader(Schema))
	if err := d.Decode(&schema); err != nil {
		t.Fatal(err)
	}
	valid := func(text []byte) []string {
		var v any
		if err := yaml.Load(text, &v); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		return validate(schema, v, "")
	}
	for _, name := range Examples() {
		text, _ := Example(name)
		if wrong := valid(text); len(wrong) > 0 {
			t.Errorf("example %s: %s", name, wrong)
		}
		f, err := Parse(name, text)
		if err != nil {
			t.Fatal(err)
		}
		if text, err = f.YAML(); err != nil {
			t.Fatal(err)
		}
		if wrong := valid(text); len(wrong) > 0 {
			t.Errorf("example %s, written out: %s\n%s", name, wrong, text)
		}
	}
	for _, settings := range []string{
		"sas: per-cpu", "sas: 4", "window: 64", "window: auto", "mark: 16", "mark: 0x10/0xff", "mark: none", "esn: on", "esn: true", "offload: no", "offload: false",
		"rotate: 8h", "rotate: never\n  esn: on", "rotate: {every: 1d12h}", "encap: udp", "selectors: [tcp/22, {protocol: 200}]", "lifetime: {bytes: 1000MB, soft: 5%}", "if_id: 4294967295",
	} {
		if wrong := valid([]byte("tunnels:\n- name: a\n" + twoHosts + "  " + settings)); len(wrong) > 0 {
			t.Errorf("%s: %s", settings, wrong)
		}
		parsed(t, "tunnels:\n- name: a\n"+twoHosts+"  "+settings+"\n")
	}
	for text, want := range map[string]string{
		"tunnels: []": "/tunnels: 0 items", "tunnels: {}": "/tunnels: no array", "{}": ": no tunnels", "[]": ": no object",
		"tunnels: [{name: a}]": "/tunnels/0: no hosts", "tunnels: [{name: a, hosts: [{address: 10.0.0.1, dev: e}]}]": "/tunnels/0/hosts: 1 items",
		"defaults: {ofload: no}\ntunnels: [{name: a, hosts: [10.0.0.1, 10.0.0.2]}]":    "/defaults: ofload is not known",
		"defaults: {offload: hard}\ntunnels: [{name: a, hosts: [10.0.0.1, 10.0.0.2]}]": "/defaults/offload: hard is none of the words",
		"defaults: {window: 16}\ntunnels: [{name: a, hosts: [10.0.0.1, 10.0.0.2]}]":    "/defaults/window: none of the alternatives",
		"defaults: {mark: red}\ntunnels: [{name: a, hosts: [10.0.0.1, 10.0.0.2]}]":     "/defaults/mark: none of the alternatives",
		"defaults: {name: a}\ntunnels: [{name: a, hosts: [10.0.0.1, 10.0.0.2]}]":       "/defaults: name is not known",
		"tunnels: [{name: 1, hosts: [10.0.0.1, 10.0.0.2]}]":                            "/tunnels/0/name: no string",
	} {
		if wrong := valid([]byte(text)); fmt.Sprint(wrong) != "["+want+"]" {
			t.Errorf("%s:\ngot  %s\nwant %s", text, wrong, want)
		}
	}
}

// TestSchemaHasAll: each setting is in the schema, with a description, and in the documentation.
func TestSchemaHasAll(t *testing.T) {
	text, err := os.ReadFile("../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	documentation := string(text)
	var visit func(group reflect.Type)
	visit = func(group reflect.Type) {
		for name, s := range fieldsOf(group) {
			if !regexp.MustCompile("`" + name + "`").MatchString(documentation) {
				t.Errorf("%s of %s is not in docs/config.md", name, group.Name())
			}
			if !bytes.Contains(Schema, []byte(`"`+name+`": {`)) {
				t.Errorf("%s of %s is not in the schema", name, group.Name())
			}
			of := group.FieldByIndex(s.index).Type
			for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
				of = of.Elem()
			}
			visit(of)
		}
	}
	visit(reflect.TypeFor[File]())
	// Of groups and lists, what they are; of each setting in them, what it does.
	var describe func(node map[string]any, path string)
	describe = func(node map[string]any, path string) {
		for name, of := range group(node, "properties") {
			if of["description"] == nil || of["description"] == "" {
				t.Errorf("%s/%s has no description", path, name)
			}
			describe(of, path+"/"+name)
		}
		for i, of := range list(node, "anyOf") {
			describe(of, fmt.Sprintf("%s(%d)", path, i))
		}
		if of, ok := node["items"].(map[string]any); ok {
			describe(of, path+"[]")
		}
	}
	var schema map[string]any
	if err := json.Unmarshal(Schema, &schema); err != nil {
		t.Fatal(err)
	}
	describe(schema, "")
}

func group(node map[string]any, key string) map[string]map[string]any {
	found := map[string]map[string]any{}
	of, _ := node[key].(map[string]any)
	for name, v := range of {
		found[name], _ = v.(map[string]any)
	}
	return found
}

func list(node map[string]any, key string) (found []map[string]any) {
	of, _ := node[key].([]any)
	for _, v := range of {
		found = append(found, v.(map[string]any))
	}
	return found
}

// validate knows as much of JSON Schema as ours uses, and fails on the rest of it.
func validate(schema map[string]any, v any, path string) (wrong []string) {
	tell := func(format string, args ...any) { wrong = append(wrong, path+": "+fmt.Sprintf(format, args...)) }
	for _, keyword := range slices.Sorted(maps.Keys(schema)) {
		of := schema[keyword]
		switch keyword {
		case "$schema", "title", "description":
		case "type":
			kinds := map[string]bool{"object": is[map[string]any](v), "array": is[[]any](v), "string": is[string](v), "integer": is[int](v)}
			if !kinds[of.(string)] {
				return []string{path + ": no " + of.(string)}
			}
		case "properties", "additionalProperties":
			object, _ := v.(map[string]any)
			for name, value := range object {
				if property, ok := group(schema, "properties")[name]; !ok && keyword == "additionalProperties" {
					tell("%s is not known", name)
				} else if ok && keyword == "properties" {
					wrong = append(wrong, validate(property, value, path+"/"+name)...)
				}
			}
		case "required":
			for _, name := range of.([]any) {
				if object, ok := v.(map[string]any); ok && object[name.(string)] == nil {
					tell("no %s", name)
				}
			}
		case "items":
			items, _ := v.([]any)
			for i, item := range items {
				wrong = append(wrong, validate(of.(map[string]any), item, fmt.Sprintf("%s/%d", path, i))...)
			}
		case "minItems", "maxItems":
			items, _ := v.([]any)
			if n, limit := float64(len(items)), of.(float64); keyword == "minItems" && n < limit || keyword == "maxItems" && n > limit {
				tell("%d items", len(items))
			}
		case "minimum", "maximum":
			limit := of.(float64)
			if n, ok := v.(int); ok && (keyword == "minimum" && float64(n) < limit || keyword == "maximum" && float64(n) > limit) {
				tell("%d", n)
			}
		case "pattern":
			if s, ok := v.(string); ok && !regexp.MustCompile(of.(string)).MatchString(s) {
				tell("%s has another form", s)
			}
		case "enum":
			if !slices.Contains(of.([]any), v) {
				tell("%v is none of the words", v)
			}
		case "anyOf":
			if !slices.ContainsFunc(list(schema, "anyOf"), func(s map[string]any) bool { return len(validate(s, v, path)) == 0 }) {
				tell("none of the alternatives")
			}
		default:
			tell("the schema has %s, which this test does not know", strings.ToUpper(keyword))
		}
	}
	return wrong
}

func is[T any](v any) bool {
	_, ok := v.(T)
	return ok
}
