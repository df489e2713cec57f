// Package report is what benchmarks of all subjects have in common: options, results, and
// how results are printed.
package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// Options apply to every subject.
type Options struct {
	Quick    bool
	Runs     int           // at least 1
	Duration time.Duration // of what takes long; 0 is the subject's own

	Rotations, Hosts int // of tunnels; 0 is its own
}

// Result is one comparison, medians of all runs.
type Result struct {
	Name  string  `json:"name"`
	Impl  string  `json:"impl"`
	Size  int     `json:"size"` // bytes
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`

	Peer      string  `json:"peer"`
	PeerValue float64 `json:"peer_value"`

	Ratio  float64 `json:"ratio"` // above 1 is faster than the peer
	Target float64 `json:"target"`
	Met    bool    `json:"met"`

	Note string `json:"note,omitempty"` // what else is to be known
}

// Report is all results of a machine.
type Report struct {
	Schema  string   `json:"schema"`
	OK      bool     `json:"ok"` // every target is met
	CPU     string   `json:"cpu"`
	Kernel  string   `json:"kernel"`
	Go      string   `json:"go"`
	Results []Result `json:"results"`
}

// New describes this machine.
func New() *Report {
	return &Report{Schema: "espalier/bench/v1", OK: true, CPU: cpu(), Kernel: kernel(), Go: runtime.Version(), Results: []Result{}}
}

// Add appends results.
func (r *Report) Add(results []Result) {
	r.Results = append(r.Results, results...)
	for _, x := range results {
		r.OK = r.OK && x.Met
	}
}

// Print writes a table or JSON.
func (r *Report) Print(w io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(r)
	}
	fmt.Fprintf(w, "%s, Linux %s, %s\n\n", r.CPU, r.Kernel, r.Go)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "name\timpl\tsize\tvalue\tunit\tpeer\tvalue\tratio\ttarget\t")
	for _, x := range r.Results {
		var remarks []string
		if !x.Met {
			remarks = append(remarks, "not met")
		}
		if x.Note != "" {
			remarks = append(remarks, x.Note)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%.1f\t%s\t%s\t%.1f\t%.2f\t%.2f\t%s\n",
			x.Name, x.Impl, x.Size, x.Value, x.Unit, x.Peer, x.PeerValue, x.Ratio, x.Target, strings.Join(remarks, "; "))
	}
	return t.Flush()
}

// Median of one number or more; with an even number of them the upper one in the middle.
func Median[T cmp.Ordered](all []T) T {
	s := slices.Sorted(slices.Values(all))
	return s[len(s)/2]
}

func cpu() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
