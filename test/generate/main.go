// Command generate writes the documentation that follows from the code: JSON Schemas of what
// `-o json` prints and of the file of tunnels to docs/schema, man pages to docs/man, docs/compatibility-with-ip.md,
// docs/xfrm-stat.md, docs/nics.md and docs/lint.md. Run it at the top of the repository:
//
//	go run ./test/generate
package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"espalier/internal/cli"
)

func main() {
	for _, write := range []func() error{schemas, manPages, differences, counters, nics, findings} {
		if err := write(); err != nil {
			fmt.Fprintln(os.Stderr, "generate:", err)
			os.Exit(1)
		}
	}
}

// schemas writes espalier/demo/v1 to docs/schema/demo.v1.json.
func schemas() error {
	dir, err := empty("docs/schema")
	if err != nil {
		return err
	}
	reflector := jsonschema.Reflector{Anonymous: true, DoNotReference: true, Mapper: textual}
	for name, types := range cli.Schemas() {
		var alternatives []*jsonschema.Schema
		for _, t := range types {
			s := reflector.Reflect(t)
			s.Version = ""
			alternatives = append(alternatives, s)
		}
		schema := alternatives[0]
		if len(alternatives) > 1 {
			schema = &jsonschema.Schema{AnyOf: alternatives}
		}
		schema.Version = jsonschema.Version
		schema.Title = name
		b, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			return err
		}
		_, file, _ := strings.Cut(name, "/")
		file = strings.ReplaceAll(file, "/", ".") + ".json"
		if err := os.WriteFile(filepath.Join(dir, file), append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	return fileSchema(dir)
}

// textual is the schema of types that write themselves as text, as encoding/json lets them.
func textual(t reflect.Type) *jsonschema.Schema {
	if t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return &jsonschema.Schema{Type: "string"}
	}
	return nil
}

func eachFile(dir string, change func([]byte) []byte) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, change(b), 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// empty makes dir anew: what is no longer generated must go.
func empty(dir string) (string, error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}
