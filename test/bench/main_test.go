package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"espalier/test/bench/report"
	"espalier/test/lab"
)

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"rot13"}, {"aesgcm", "--runs", "0"}, {"aesgcm", "-o", "xml"}, {"aesgcm", "more"}, {"aesgcm", "--slow"}, {"--quick"}, {"--slow", "aesgcm"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(args, &stdout, &stderr); code != 2 || stdout.Len() > 0 || stderr.Len() == 0 {
			t.Errorf("%q: exit %d, stdout %q, stderr %q", args, code, &stdout, &stderr)
		}
	}
	var stdout, stderr bytes.Buffer
	if code := run([]string{"--help"}, &stdout, &stderr); code != 0 || !strings.Contains(stderr.String(), "usage: bench SUBJECT") {
		t.Errorf("--help: exit %d, %q", code, &stderr)
	}
}

// What they measure is another matter; that they measure everything is tested here.
func TestAESGCM(t *testing.T) {
	if _, err := os.Stat("/usr/include/intel-ipsec-mb.h"); err != nil {
		lab.Missing(t, "libipsec-mb-dev")
	}
	lab.Tools(t, "cc")
	var stdout, stderr bytes.Buffer
	code := run([]string{"--quick", "aesgcm", "--runs", "1", "-o", "json"}, &stdout, &stderr)
	if code == 1 && strings.Contains(stderr.String(), "no VAES") {
		t.Skip(stderr.String())
	}
	if code != 0 || stderr.Len() > 0 {
		t.Fatalf("exit %d: %s", code, &stderr)
	}
	var got report.Report
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Schema != "espalier/bench/v1" || got.CPU == "" || got.Kernel == "" || got.Go == "" {
		t.Errorf("got %+v", got)
	}
	seen, met := map[string]int{}, true
	for _, r := range got.Results {
		seen[r.Impl+" "+r.Peer]++
		met = met && r.Met
		if r.Value <= 0 || r.PeerValue <= 0 || r.Ratio <= 0 || r.Unit != "ns/packet" || r.Met != (r.Ratio >= r.Target) {
			t.Errorf("got %+v", r)
		}
	}
	if got.OK != met {
		t.Errorf("ok is %v", got.OK)
	}
	if len(seen) < 2 {
		t.Errorf("compared are only %v", seen)
	}
	for pair, n := range seen {
		if n != 2*2*5 {
			t.Errorf("%s: %d results, want two key sizes, two directions, five packet sizes", pair, n)
		}
	}
}

func TestESP(t *testing.T) {
	results := quick(t, "esp")
	sizes := map[string]map[int]bool{}
	for _, r := range results {
		if sizes[r.Name] == nil {
			sizes[r.Name] = map[int]bool{}
		}
		sizes[r.Name][r.Size] = true
	}
	if len(sizes) != 2*2*2 {
		t.Errorf("%d names, want two directions, two key sizes, with and without ESN: %v", len(sizes), sizes)
	}
	for name, of := range sizes {
		if len(of) != 5 {
			t.Errorf("%s: sizes %v", name, of)
		}
	}
}

// Without the gateway, which takes minutes to build: then figures of elsewhere stand in its place,
// and say so.
func TestPath(t *testing.T) {
	lab.Root(t)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("PATH", "/nowhere")
	results := quick(t, "path")
	peers := 0
	for _, r := range results {
		if strings.Contains(r.Peer, "not the same run") {
			peers++
		}
	}
	if len(results) != 2*2*2 || peers != 2*2 {
		t.Errorf("%d results, %d of them against the gateway", len(results), peers)
	}
}

// quick is what a subject measures in a hurry.
func quick(t *testing.T, subject string) []report.Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run([]string{subject, "--quick", "--runs", "1", "-o", "json"}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit %d: %s", code, &stderr)
	}
	var got report.Report
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, r := range got.Results {
		if r.Value <= 0 || r.PeerValue <= 0 || r.Ratio <= 0 || r.Met != (r.Ratio >= r.Target) {
			t.Errorf("got %+v", r)
		}
	}
	return got.Results
}
