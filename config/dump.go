package config

import "go.yaml.in/yaml/v4"

// YAML is the file as text. That of a file that was parsed says all that was filled in, and parses to
// the same again.
func (f *File) YAML() ([]byte, error) {
	return yaml.Dump(f, yaml.WithIndent(2), yaml.WithFlowSimpleCollections(), yaml.WithLineWidth(100))
}
