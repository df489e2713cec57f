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
)

// writeJSON writes one object on one line.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
