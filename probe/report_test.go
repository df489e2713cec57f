package probe

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestJudge(t *testing.T) {
	check := func(w Weight, a Answer, why string) Check { return Check{Weight: w, Answer: a, Why: why} }
	tried := func(a Answer, why string) Check { return Check{Weight: Required, Tried: true, Answer: a, Why: why} }
	for _, c := range []struct {
		name   string
		checks []Check
		want   Readiness
		why    string
	}{
		{"nothing required", []Check{check(Warns, No, "slow"), check(Informs, Unknown, "?")}, Ready, ""},
		{"all there", []Check{check(Required, Yes, "set"), check(Required, Yes, "set")}, Ready, ""},
		{"one missing", []Check{check(Required, Yes, "set"), check(Required, No, "not set")}, NotReady, "not set"},
		{"one not known", []Check{check(Required, Unknown, "unreadable"), check(Required, Unknown, "also")}, Unclear, "unreadable"},
		{"tried, and it works", []Check{check(Required, Unknown, "unreadable"), tried(Yes, "offloaded"), check(Required, No, "not set")}, Ready, ""},
		{"tried, and it does not", []Check{check(Required, Yes, "set"), tried(No, "software")}, NotReady, "software"},
		{"tried, and the reason is known", []Check{check(Required, No, "not set"), tried(No, "software")}, NotReady, "not set"},
		{"tried in vain", []Check{check(Required, Yes, "set"), tried(Unknown, "cut short")}, Unclear, "cut short"},
		{"missing outweighs not known", []Check{check(Required, Unknown, "unreadable"), check(Required, No, "not set")}, NotReady, "not set"},
	} {
		// However the checks are spread over layers, and those over host and device.
		for i := range len(c.checks) + 1 {
			host, device := []Layer{{Checks: c.checks[:i]}}, []Layer{{}, {Checks: c.checks[i:]}}
			if got, why := Judge(host, device); got != c.want || why != c.why {
				t.Errorf("%s, %d of the host: %s (%s), want %s (%s)", c.name, i, got, why, c.want, c.why)
			}
		}
	}
}

// TestReportTravels: a report that another host writes as JSON is read as the same.
func TestReportTravels(t *testing.T) {
	sent := Report{Host: "db2", Layers: []Layer{{Name: "kernel"}}}
	for _, a := range []Answer{Unknown, Yes, No} {
		for _, w := range []Weight{Informs, Warns, Required} {
			sent.Layers[0].Checks = append(sent.Layers[0].Checks, Check{ID: "x", Answer: a, Weight: w, Evidence: []Evidence{{"file", "value"}}})
		}
	}
	sent.Conclude()
	b, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, sent) {
		t.Errorf("%+v, %v; want %+v", got, err, sent)
	}
	if w := warnings([]Layer{{Checks: []Check{
		{ID: "kernel.inet6-esp", Weight: Warns, Answer: No, Why: "no ESP over IPv6"}, {ID: "nic.link", Weight: Warns, Answer: No, Why: "down"},
		{ID: "x", Weight: Warns, Answer: Unknown, Why: "dark"}, {ID: "y", Weight: Informs, Answer: No, Why: "old"}, {ID: "z", Weight: Warns, Answer: No, Why: "down"},
	}}}); !reflect.DeepEqual(w, []string{"down", "no ESP over IPv6"}) {
		t.Errorf("warnings %q", w)
	}
	var c Check
	if err := json.Unmarshal([]byte(`{"answer":"perhaps","weight":"decides"}`), &c); err != nil || c.Answer != Unknown || c.Weight != Informs {
		t.Errorf("words of a later version: %+v, %v", c, err)
	}
	for _, c := range []struct{ a, b, want Readiness }{
		{Ready, Ready, Ready}, {Ready, Unclear, Unclear}, {Unclear, Ready, Unclear}, {Unclear, NotReady, NotReady}, {NotReady, Ready, NotReady},
	} {
		if got := c.a.Worst(c.b); got != c.want {
			t.Errorf("%s and %s: %s", c.a, c.b, got)
		}
	}
}
