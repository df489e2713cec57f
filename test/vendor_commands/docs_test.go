package vendorcmd

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"espalier/test/lab"
)

// Every reason for a drop is in the documentation, in the device's own words.
func TestDropsAreDocumented(t *testing.T) {
	l := lab.New(t, "p4p1")
	l.A.StartDevice()
	var view struct {
		Drops []struct{ Reason, Counter, Meaning string }
	}
	if err := json.Unmarshal([]byte(stdout(t, l.A, "-o", "json", "drops")), &view); err != nil || len(view.Drops) == 0 {
		t.Fatalf("drops: %v, %v", view, err)
	}
	doc := read(t, "../../docs/device.md")
	for _, d := range view.Drops {
		counter := "–"
		if d.Counter != "" {
			counter = "`" + d.Counter + "`"
		}
		if row := fmt.Sprintf("| `%s` | %s | %s |\n", d.Reason, counter, d.Meaning); !strings.Contains(doc, row) {
			t.Errorf("docs/device.md lacks %s", row)
		}
	}
}
