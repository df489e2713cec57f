package vmlab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"espalier/test/vmlab/guest"
)

// Outcome is what one case came to in the VM.
type Outcome struct{ Section, Case, Result string }

// results of a run in the VM.
type results struct {
	tests    []*test // top level, in order
	byName   map[string]*test
	outcomes []Outcome
	exit     int // of the tests; -1 if they did not come to their end
}

type test struct {
	name     string // the last part
	action   string // pass, fail or skip; "" if it did not end
	output   strings.Builder
	seconds  float64
	children []*test
}

// parse reads the output of go test -v, by Go's own tool.
func parse(text []byte) (*results, error) {
	r := &results{byName: make(map[string]*test), exit: -1}
	cmd := exec.Command("go", "tool", "test2json", "-t")
	cmd.Stdin = bytes.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go tool test2json: %w", err)
	}
	for line := range bytes.Lines(out) {
		var e struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%w in %q", err, line)
		}
		r.event(e.Action, e.Test, e.Output)
		if e.Elapsed > 0 && r.byName[e.Test] != nil {
			r.byName[e.Test].seconds = e.Elapsed
		}
	}
	return r, nil
}

func (r *results) event(action, name, output string) {
	if code, ok := strings.CutPrefix(output, guest.ExitMark); ok {
		if n, err := strconv.Atoi(strings.TrimSpace(code)); err == nil {
			r.exit = n
		}
		return
	}
	if fields := strings.Split(strings.TrimSuffix(output, "\n"), "\t"); fields[0] == guest.OutcomeMark && len(fields) == 4 {
		r.outcomes = append(r.outcomes, Outcome{fields[1], fields[2], fields[3]})
		return
	}
	if name == "" {
		return
	}
	t := r.test(name)
	switch action {
	case "pass", "fail", "skip":
		t.action = action
	case "output":
		if !strings.HasPrefix(output, "=== ") && !strings.HasPrefix(strings.TrimSpace(output), "--- ") {
			t.output.WriteString(output)
		}
	}
}

// test finds or makes a test, and those it is part of.
func (r *results) test(name string) *test {
	if t := r.byName[name]; t != nil {
		return t
	}
	t := &test{name: name}
	r.byName[name] = t
	if at := strings.LastIndexByte(name, '/'); at >= 0 {
		t.name = name[at+1:]
		parent := r.test(name[:at])
		parent.children = append(parent.children, t)
	} else {
		r.tests = append(r.tests, t)
	}
	return t
}

func (r *results) report(t *testing.T) {
	t.Helper()
	if len(r.tests) == 0 {
		t.Error("no test ran in the VM")
	}
	for _, x := range r.tests {
		t.Run(x.name, x.report)
	}
}

// report has a test end as it has in the VM.
func (x *test) report(t *testing.T) {
	for _, c := range x.children {
		t.Run(c.name, c.report)
	}
	if x.seconds >= 1 {
		t.Logf("%.1fs in the VM", x.seconds)
	}
	if text := strings.TrimSpace(x.output.String()); text != "" {
		t.Log(text)
	}
	switch x.action {
	case "pass":
	case "skip":
		t.SkipNow()
	case "fail":
		t.FailNow()
	default:
		t.Error("did not come to its end")
	}
}
