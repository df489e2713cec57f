package xfrmstat

import (
	"os"
	"strings"
	"testing"
)

// Each counter is there once, and is explained.
func TestCounters(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Counters {
		if seen[c.Name] || !strings.HasPrefix(c.Name, "Xfrm") || c.Meaning == "" || len(c.Causes) == 0 || len(c.Look) == 0 {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
	}
	if _, known := Find("XfrmInTmplMismatch"); !known {
		t.Error("not found")
	}
	if _, known := Find("XfrmNoSuch"); known {
		t.Error("found what is not there")
	}
}

// Whatever this kernel counts is in the table, in the kernel's order.
func TestCountersOfThisKernel(t *testing.T) {
	b, err := os.ReadFile("/proc/net/xfrm_stat")
	if err != nil {
		t.Skipf("a kernel with CONFIG_XFRM_STATISTICS has them: %v", err)
	}
	next := 0
	for line := range strings.Lines(string(b)) {
		name, _, _ := strings.Cut(line, " ")
		at := -1
		for i := next; i < len(Counters); i++ {
			if Counters[i].Name == name {
				at = i
				break
			}
		}
		if at < 0 {
			t.Errorf("%s is not in the table, or not in its place", name)
			continue
		}
		next = at + 1
	}
}
