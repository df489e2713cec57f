package config

import (
	"embed"
	"path"
	"slices"
	"strings"
)

//go:embed examples/*.yaml
var examples embed.FS

// Schema is the JSON Schema of the file (draft 2020-12), which is generated from the types: go run
// ./test/generate. Editors take it.
//
//go:embed schema.json
var Schema []byte

// Examples are the names of what [Example] has.
func Examples() []string {
	files, _ := examples.ReadDir("examples") // embedded: it is there
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".yaml"))
	}
	return names
}

// Example is a file to begin with, false if there is none of that name.
func Example(name string) ([]byte, bool) {
	text, err := examples.ReadFile(path.Join("examples", name+".yaml"))
	return text, err == nil && slices.Contains(Examples(), name)
}
