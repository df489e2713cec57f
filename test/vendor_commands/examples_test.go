package vendorcmd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"espalier/test/lab"
)

const examples = "../../examples/"

// The example is run as its README says: keys made on the first server, copied to the second,
// each script in the directory of the keys.
func TestExample(t *testing.T) {
	lab.Tools(t, "ping", "sh", "od")
	l := lab.New(t, "p4p1")
	scripts := map[*lab.Host]string{l.A: "first-server.xfrm", l.B: "second-server.xfrm"}
	copyFiles(t, examples, l.A.Dir, "new-keys.sh")
	l.A.Must("sh", "-c", `cd "$0" && ./new-keys.sh`, l.A.Dir)
	checkKeys(t, l.A.Dir)
	copyFiles(t, l.A.Dir, l.B.Dir, keyFiles...)
	watcher := l.Watch(l.A, nil)
	for _, h := range l.Hosts() {
		h.StartDevice()
		copyFiles(t, examples, h.Dir, scripts[h])
		h.Must("sh", "-c", `cd "$0" && "$1" xfrm --sad "unix:$2" -batch "$3"`, h.Dir, lab.Binary(t), h.Socket, scripts[h])
	}

	passesAsESP(t, l, watcher)
	for _, h := range l.Hosts() {
		if log := h.Log(); strings.Contains(log, "WARN") {
			t.Errorf("host %s warns of the example:\n%s", h.Name, log)
		}
		checkExampleList(t, h)
	}
}

var keyFiles = []string{"first-to-second.key", "second-to-first.key"}

// checkKeys: readable by nobody else, of the right length, and not the same twice.
func checkKeys(t *testing.T, dir string) {
	t.Helper()
	seen := map[string]bool{}
	for range 2 {
		for _, name := range keyFiles {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("%s: %v, %v; want mode 0600", name, info, err)
			}
			key := strings.TrimSpace(read(t, filepath.Join(dir, name)))
			if len(key) != len("0x")+2*36 || !strings.HasPrefix(key, "0x") || seen[key] {
				t.Errorf("%s does not hold a fresh key of 36 bytes", name)
			}
			seen[key] = true
		}
		if len(seen) == 2 {
			remake(t, dir)
		}
	}
}

// remake makes new keys in place of the old.
func remake(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.Command("./new-keys.sh")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("new-keys.sh: %v\n%s", err, out)
	}
}

func checkExampleList(t *testing.T, h *lab.Host) {
	t.Helper()
	listed := stdout(t, h, "state", "list")
	if n := strings.Count(listed, "crypto offload parameters: dev p4p1"); n != 2 {
		t.Errorf("host %s: %d SAs are offloaded, want 2:\n%s", h.Name, n, listed)
	}
	for _, name := range keyFiles {
		if key := read(t, filepath.Join(h.Dir, name)); strings.Contains(listed, key[2:18]) {
			t.Errorf("host %s: state list shows a key", h.Name)
		}
	}
}

// What plain-ip.awk makes is, word for word, the same SAs and policies; and ip itself takes
// all of it, or, where its kernel has no AES-GCM, all but the SAs.
func TestExampleForPlainIP(t *testing.T) {
	lab.Tools(t, "sh", "awk", "ip", "od")
	l := lab.New(t, "p4p1")
	for _, script := range []string{"first-server.xfrm", "second-server.xfrm"} {
		t.Run(script, func(t *testing.T) {
			copyFiles(t, examples, l.A.Dir, "new-keys.sh", "plain-ip.awk", script)
			remake(t, l.A.Dir)
			dryRun := `"$1" xfrm --dry-run -batch`
			direct := l.A.Must("sh", "-c", `cd "$0" && `+dryRun+` "$2"`, l.A.Dir, lab.Binary(t), script)
			piped := l.A.Must("sh", "-c", `cd "$0" && awk -f plain-ip.awk "$2" | `+dryRun+` -`, l.A.Dir, lab.Binary(t), script)
			if want, got := commands(direct), commands(piped); want != got || strings.Count(got, "\n") != 5 {
				t.Errorf("piped:\n%s\nwant:\n%s", got, want)
			}
			tryIP(t, l.A, script)
		})
	}
}

func tryIP(t *testing.T, h *lab.Host, script string) {
	t.Helper()
	const plain = `cd "$0" && awk -v offload=no -f plain-ip.awk "$1" | `
	states, policies := 2, 3
	if r := h.Command("sh", "-c", plain+`ip -batch -`, h.Dir, script); r.Code != 0 {
		if !strings.HasPrefix(r.Stderr, "Error: Requested AEAD algorithm not found.") {
			t.Fatalf("ip: %s", r.Stderr)
		}
		t.Log("this kernel has no AES-GCM: only the policies are tried with ip")
		states = 0
		h.Must("sh", "-c", plain+`grep 'xfrm policy' | ip -batch -`, h.Dir, script)
	}
	if n := strings.Count(h.Must("ip", "xfrm", "state", "list"), "spi 0x"); n != states {
		t.Errorf("the kernel has %d SAs, want %d", n, states)
	}
	if n := strings.Count(h.Must("ip", "xfrm", "policy", "list"), "tmpl "); n != policies {
		t.Errorf("the kernel has %d policies, want %d", n, policies)
	}
	h.Must("ip", "xfrm", "state", "flush")
	h.Must("ip", "xfrm", "policy", "flush")
}

var keyWord = regexp.MustCompile(`@[^ ]+\.key|'0x<hidden>'`)

// commands are the lines of a dry run that say what would be sent, but for the key.
func commands(dryRun string) string {
	var b strings.Builder
	for line := range strings.Lines(dryRun) {
		if strings.HasPrefix(line, "[#] ") {
			b.WriteString(keyWord.ReplaceAllString(line, "KEY"))
		}
	}
	return b.String()
}

func copyFiles(t *testing.T, from, to string, names ...string) {
	t.Helper()
	for _, name := range names {
		info, err := os.Stat(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), []byte(read(t, filepath.Join(from, name))), info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
}
