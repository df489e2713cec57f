package cli

import (
	"reflect"
	"strings"
	"testing"
)

// What may be null says so: the JSON Schemas are made from these types.
func TestNullsAreInSchemas(t *testing.T) {
	seen := map[reflect.Type]bool{}
	pointers := 0
	var look func(of reflect.Type)
	look = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
			look(of.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[of] {
			return
		}
		seen[of] = true
		for i := range of.NumField() {
			f := of.Field(i)
			tag := f.Tag.Get("json")
			if !f.IsExported() && !f.Anonymous || tag == "-" {
				continue
			}
			if f.Type.Kind() == reflect.Pointer && !f.Anonymous && !strings.Contains(tag, ",omit") {
				pointers++
				if !strings.Contains(f.Tag.Get("jsonschema"), "nullable") {
					t.Errorf("%s.%s is null at times: jsonschema:\"nullable\"", of, f.Name)
				}
			}
			look(f.Type)
		}
	}
	for _, types := range Schemas() {
		for _, v := range types {
			look(reflect.TypeOf(v))
		}
	}
	if pointers < 3 {
		t.Errorf("%d fields that may be null: is this looking at them?", pointers)
	}
}
