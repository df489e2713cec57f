package lint

import (
	"strings"
	"testing"
)

const receiver = "xfrm state add src 10.0.0.2 dst 10.0.0.1 proto esp spi 0x1002 reqid 1 aead 'rfc4106(gcm(aes))' 0x" +
	"00000000000000000000000000000000000000000000000000000000000000000000000a 128 dir in\n"

// TestBreakingEdit: an edit after which ip refuses a line is left out, and the others are made.
func TestBreakingEdit(t *testing.T) {
	r, err := Scripts([]Source{{Name: "a", Text: receiver}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	at := r.scripts[0].Commands[0].Words[2].Start
	r.Findings = append([]Finding{{ID: HalfOffloaded, About: "it", Place: Place{"a", 1}, mend: func() ([]edit, string) {
		return []edit{{r.scripts[0], at, at, "nonsense "}}, ""
	}}}, r.Findings...)
	fixed, err := r.Fix()
	if err != nil {
		t.Fatal(err)
	}
	if text := fixed.Scripts[0].Text; strings.Contains(text, "nonsense") || !strings.Contains(text, "replay-window 64") {
		t.Error(strings.ReplaceAll(text, "00000000", "…"))
	}
}

// TestOneEnd: a new key is made only where both ends get it.
func TestOneEnd(t *testing.T) {
	r, err := Scripts([]Source{{Name: "a", Text: receiver}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	fixed, err := r.Fix()
	if err != nil {
		t.Fatal(err)
	}
	why := ""
	for _, l := range fixed.Left {
		if l.ID == WeakKey {
			why = l.Why
		}
	}
	if !strings.Contains(fixed.Scripts[0].Text, "000000000a") || !strings.HasPrefix(why, "the other end needs the same") {
		t.Errorf("left because %q", why)
	}
}
