package cli

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// TestYAML: a document holds what the JSON form holds, with the same types and in the same
// order, whatever the text looks like.
func TestYAML(t *testing.T) {
	v := struct {
		Schema string            `json:"schema"`
		OK     bool              `json:"ok"`
		Null   *int              `json:"null"`
		Left   string            `json:"left,omitempty"`
		Big    uint64            `json:"big"`
		Ratio  float64           `json:"ratio"`
		Tiny   float64           `json:"tiny"`
		Empty  []string          `json:"empty"`
		Texts  []string          `json:"texts"`
		Counts map[string]uint32 `json:"counts"`
		Nested []struct {
			SPI string `json:"spi"`
		} `json:"nested"`
	}{
		Schema: "espalier/test/v1", Big: 1<<64 - 1, Ratio: 0.25, Tiny: 1e-9, Empty: []string{},
		Texts: []string{"0x00001000", "yes", "null", "1e3", "~", "", "2001:10:20:30:40:50:1:2", " ", "a: b", "- c", "#d", "e\nf\n", "→ \x7f\x01\u2028", "'\"", "<<", strings.Repeat("long ", 60)},
		Nested: []struct {
			SPI string `json:"spi"`
		}{{"0x1"}, {"0x2"}},
	}
	v.Counts = map[string]uint32{"b": 1, "a": 2}
	var asJSON, asYAML strings.Builder
	if err := writeData(&asJSON, formatJSON, v); err != nil {
		t.Fatal(err)
	}
	if err := writeData(&asYAML, formatYAML, v); err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := json.Unmarshal([]byte(asJSON.String()), &want); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(asYAML.String()), &got); err != nil {
		t.Fatalf("%v:\n%s", err, asYAML.String())
	}
	if got = throughJSON(t, got); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v\n%s", got, want, asYAML.String())
	}
	text := asYAML.String()
	if !strings.Contains(text, "\n- \"yes\"\n") || !strings.Contains(text, "\n- \"2001:10:20:30:40:50:1:2\"\n") {
		t.Errorf("readers of YAML 1.1 take these for others than strings:\n%s", text)
	}
	if !strings.HasPrefix(text, "---\nschema: espalier/test/v1\nok: false\n\"null\": null\nbig: 18446744073709551615\n") || strings.Contains(text, "left") {
		t.Errorf("order or form:\n%s", text)
	}
}

// throughJSON gives numbers the type that JSON decodes them to.
func throughJSON(t *testing.T, v any) (back any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// TestXfrmYAML: one document a command, failures too, without keys.
func TestXfrmYAML(t *testing.T) {
	m := &memory{grants: granted}
	xfrmCall(t, m, "", args(addIn)...)
	code, stdout, _ := xfrmCall(t, m, "state list\nstate count\nstate get dst 1.1.1.1 proto esp spi 3\n", "-o", "yaml", "--show-keys", "-batch", "-")
	if strings.Contains(stdout, testKey[2:20]) {
		t.Error("the key is in the YAML")
	}
	documents := strings.Split(stdout, "---\n")
	if code != 2 || len(documents) != 4 || documents[0] != "" {
		t.Fatalf("exit %d: %s", code, stdout)
	}
	for i, want := range []string{"\nstates:\n- src: 10.0.0.1\n  dst: 10.0.0.2\n  proto: esp\n  spi: \"0x00001000\"\n", "\ncount:\n  states: 1\n", "\nok: false\n"} {
		d := documents[i+1]
		if !strings.HasPrefix(d, "schema: espalier/xfrm-state/v1\n") || !strings.Contains(d, want) {
			t.Errorf("document %d:\n%s", i+1, d)
		}
	}
}
