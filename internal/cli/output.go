package cli

import (
	"encoding/json"
	"io"
)

// format is what -o asks for.
type format uint8

const (
	formatText format = iota
	formatOneLine
	formatWide
	formatJSON
	formatYAML
)

// isData reports whether the output is for programs: documents and nothing else.
func (f format) isData() bool { return f == formatJSON || f == formatYAML }

// writeData writes one document: of a stream, one object a line in JSON.
func writeData(w io.Writer, f format, v any) error {
	if f == formatYAML {
		return writeYAML(w, v)
	}
	return writeJSON(w, v)
}

// writeJSON writes one object on one line.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
