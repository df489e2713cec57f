package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/config"
)

func configCall(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(context.Background(), append([]string{"config"}, args...), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

const twoHosts = `tunnels:
- name: db
  hosts: [{address: 192.168.1.64, dev: p4p1}, {address: 192.168.1.65, dev: enp4s0, ssh: root@db2}]
  offload: auto
`

func TestConfigCheck(t *testing.T) {
	code, stdout, stderr := configCall(t, twoHosts, "check", "-")
	const want = `db: 192.168.1.64 (p4p1) ↔ 192.168.1.65 (enp4s0, root@db2)
    transport, AES-GCM-256, ESN auto, offload auto
    rotated every 8h, or at 50% of the sequence numbers
stdin: nothing is wrong: 1 tunnel, 1 pair of hosts
`
	if code != 0 || stdout != want || stderr != "" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}

	bad := strings.Replace(twoHosts, "offload: auto", "ofload: auto\n  window: 1", 1)
	code, stdout, stderr = configCall(t, bad, "check", "-")
	const problems = `stdin:4:3: a tunnel has no setting "ofload": did you mean offload?
stdin:5:11: a window of 1 packets is too small: write 32 to 4096, or auto
`
	if code != 1 || stdout != "" || stderr != problems {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
}

// TestConfigCheckFiles: each file counts; one that is not there does not hide the others.
func TestConfigCheckFiles(t *testing.T) {
	dir := t.TempDir()
	good, bad, none := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "none.yaml")
	for name, text := range map[string]string{good: twoHosts + "- name: part\n  hosts: [192.168.1.64, 192.168.1.65]\n  selectors: [tcp/1]\n", bad: "tunnels: []\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := configCall(t, "", "check", bad, none, good)
	want := bad + ":1:10: there are no tunnels: see espalier config example; what was applied of this file, espalier down takes away\n" + none + ": no such file or directory\n" +
		"note: " + good + ":5:9: 192.168.1.64→192.168.1.65 tcp to port 1 goes by tunnel part, not by db, for it is the narrower\n"
	if code != 1 || !strings.Contains(stdout, good+": nothing is wrong: 2 tunnels") || stderr != want {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}

	code, stdout, stderr = configCall(t, "", "check", "-o", "json", bad, none, good)
	var view configView
	if err := json.Unmarshal([]byte(stdout), &view); err != nil || code != 1 || stderr != "" {
		t.Fatalf("exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if view.Schema != "espalier/config/v1" || view.OK || len(view.Files) != 3 || view.Files[0].OK || view.Files[1].OK || !view.Files[2].OK {
		t.Fatalf("%+v", view)
	}
	if p := view.Files[0].Problems; len(p) != 1 || p[0] != (config.Problem{File: bad, Line: 1, Column: 10, What: "there are no tunnels", Instead: "see espalier config example; what was applied of this file, espalier down takes away"}) {
		t.Errorf("%+v", p)
	}
	part := view.Files[2].Tunnels[1]
	if len(view.Files[2].Notes) != 1 || part.KeyBits != 256 || part.Rotate.EverySeconds != 28800 || part.Hosts[1].SSH != "root@db2" || len(part.Pairs) != 1 {
		t.Errorf("%+v", view.Files[2])
	}
	lane := part.Pairs[0].Lanes[0]
	if lane.Reqid < 1<<30 || len(lane.Protect) != 2 || lane.Protect[0].Src != "192.168.1.64/32" || lane.Protect[0].Proto != "tcp" || *lane.Protect[0].DPort != 1 {
		t.Errorf("%+v", lane)
	}
}

// TestConfigExamples: what is given to begin with is in order; see it as a person does.
func TestConfigExamples(t *testing.T) {
	for _, name := range config.Examples() {
		code, text, stderr := configCall(t, "", "example", name)
		if code != 0 || stderr != "" {
			t.Fatalf("exit %d, %s", code, stderr)
		}
		code, stdout, stderr := configCall(t, text, "check", "-")
		if code != 0 || strings.Contains(stderr, "wrong") {
			t.Errorf("example %s: exit %d, %s", name, code, stderr)
		}
		for line := range strings.Lines(stdout) {
			if n := len([]rune(line)); n > 101 {
				t.Errorf("%d columns: %s", n-1, line)
			}
		}
	}
	_, first, _ := configCall(t, "", "example", "two-hosts")
	if _, without, _ := configCall(t, "", "example"); without != first || first == "" {
		t.Errorf("without a name: %s", without)
	}
}

func TestConfigSchema(t *testing.T) {
	code, stdout, _ := configCall(t, "", "schema")
	generated, err := os.ReadFile("../../docs/schema/config-file.v1.json")
	if err != nil || code != 0 || stdout != string(generated) {
		t.Errorf("exit %d, %v: not what docs/schema has: go run ./test/generate", code, err)
	}
}

func TestConfigUsage(t *testing.T) {
	for _, args := range [][]string{
		{"check"}, {"check", "-o", "xml", "-"}, {"check", "--nonsense"}, {"example", "nonsense"}, {"example", "mesh", "full"},
		{"example", "../full"}, {"schema", "x"}, {"nonsense"},
	} {
		if code, stdout, stderr := configCall(t, twoHosts, args...); code != 2 || stdout != "" || stderr == "" {
			t.Errorf("%q: exit %d\n%s%s", args, code, stdout, stderr)
		}
	}
}
