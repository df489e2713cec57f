package dataplane

import (
	"strings"
	"testing"
)

// Each reason has a likely cause of its own, in words that fit a list.
func TestCauses(t *testing.T) {
	for _, d := range DropReasons() {
		causes := Causes(d.Reason)
		if len(causes) == 0 {
			t.Errorf("%s: nothing is likely", d.Reason)
		}
		for _, c := range causes {
			if strings.HasSuffix(c, ".") || strings.Contains(c, "\n") || c == "" || c == d.Meaning {
				t.Errorf("%s: %q", d.Reason, c)
			}
		}
	}
	if Causes("XfrmInError") != nil {
		t.Error("a counter of the kernel's is no reason of the device's")
	}
}
