package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

const reused = "this key was installed on this host before"

// A key that was ever installed is not taken for sending again; whoever insists may.
func TestXfrmKeyReuse(t *testing.T) {
	receives := strings.Replace(addIn, peerKey, testKey, 1)
	otherSPI := strings.Replace(addOut, "0x1001", "0x1002", 1)
	for _, tt := range []struct {
		name          string
		first, second string
		options       []string
		code          int
		said          string
	}{
		{"sending twice", addOut, otherSPI, nil, 2, reused},
		{"sending what was received by", receives, addOut, nil, 2, reused},
		{"receiving twice", receives, strings.Replace(receives, "0x1000", "0x1002", 1), nil, 0, ""},
		{"another key", addIn, addOut, nil, 0, ""},
		{"allowed", addOut, otherSPI, []string{"--allow-key-reuse"}, 0, reused},
		{"as ip does", addOut, otherSPI, []string{"--ip-compat"}, 0, reused},
		{"dir out", strings.Replace(receives, "dir in replay-window 64", "dir out", 1), otherSPI, nil, 2, reused},
		{"from an address of ours", addOut, strings.Replace(strings.Replace(receives, "dir in", "", 1), "10.0.0.1", "127.0.0.1", 1), nil, 2, reused},
		{"from another's address", addOut, strings.Replace(receives, "dir in", "", 1), nil, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("ESPALIER_STATE_DIR", t.TempDir())
			first := &memory{grants: granted}
			if code, _, stderr := xfrmAgain(t, first, "", args(tt.first)...); code != 0 {
				t.Fatalf("first: exit %d: %s", code, stderr)
			}
			second := &memory{grants: granted} // the first SA is gone
			code, _, stderr := xfrmAgain(t, second, "", args(tt.second, tt.options...)...)
			if code != tt.code || strings.Contains(stderr, reused) != (tt.said != "") {
				t.Errorf("exit %d, want %d: %s", code, tt.code, stderr)
			}
			if got := len(second.states); (got == 1) != (tt.code == 0) {
				t.Errorf("%d SAs", got)
			}
		})
	}
}

// The key of an SA that is there stays its own: an add is for the kernel to refuse, an update keeps
// it. A key that the engine has not taken may be used later.
func TestXfrmKeyOfLiveSA(t *testing.T) {
	t.Setenv("ESPALIER_STATE_DIR", t.TempDir())
	m := &memory{grants: granted}
	xfrmAgain(t, m, "", args(addOut)...)
	if code, _, stderr := xfrmAgain(t, m, "", args(addOut)...); code != 2 || strings.Contains(stderr, reused) {
		t.Errorf("add again: exit %d: %s", code, stderr)
	}
	if code, _, stderr := xfrmAgain(t, m, "", args(strings.Replace(addOut, "add", "update", 1)+" limit packet-soft 9")...); code != 0 {
		t.Errorf("update: exit %d: %s", code, stderr)
	}
	refusing := &refuser{memory: memory{}}
	const fresh = "0x111111111111111111111111111111111111111111111111111111111111111111111111"
	other := strings.Replace(strings.Replace(addOut, testKey, fresh, 1), "0x1001", "0x3000", 1)
	for range 2 {
		if code, _, stderr := xfrmAgain(t, refusing, "", args(other)...); code != 2 || strings.Contains(stderr, reused) {
			t.Errorf("refused by the engine: exit %d: %s", code, stderr)
		}
	}
	if code, _, stderr := xfrmAgain(t, m, "", args(other)...); code != 0 {
		t.Errorf("at last: exit %d: %s", code, stderr)
	}
}

// refuser takes no SA, or none after a few.
type refuser struct {
	memory
	takes int
}

func (r *refuser) AddState(ctx context.Context, s *xfrm.State) error {
	if r.takes == 0 {
		return unix.EINVAL
	}
	r.takes--
	return r.memory.AddState(ctx, s)
}

// In a batch the second line with a key is refused by its number, the others go on with -force.
func TestXfrmKeyReuseInBatch(t *testing.T) {
	m := &memory{grants: granted}
	script := addOut + "\n" + strings.Replace(addOut, "0x1001", "0x1002", 1) + "\n" + addIn + "\n"
	code, _, stderr := xfrmCall(t, m, script, "-force", "-batch", "-")
	if code != 2 || len(m.states) != 2 || !strings.Contains(stderr, "stdin:2: state add 0x00001002") {
		t.Errorf("exit %d, %d SAs: %s", code, len(m.states), stderr)
	}
}

// An unreadable record lets nothing be installed: nobody knows what was used.
func TestXfrmNoRecord(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "state"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ESPALIER_STATE_DIR", filepath.Join(dir, "state"))
	m := &memory{grants: granted}
	if code, _, stderr := xfrmAgain(t, m, "", args(addOut)...); code != 2 || m.calls != 0 || !strings.Contains(stderr, "ESPALIER_STATE_DIR") {
		t.Errorf("exit %d, %d calls: %s", code, m.calls, stderr)
	}
}

func TestXfrmUpdateIgnored(t *testing.T) {
	for change, said := range map[string]string{
		"":                              "",
		" limit packet-soft 9":          "",
		" KEY":                          "does not change the key of",
		" sel src 10.9.0.0/16":          "does not change the selector of",
		" offload dev lo dir in":        "",
		" encap espinudp 4500 4500 ::0": "",
	} {
		add, update := addIn, strings.Replace(addIn, "add", "update", 1)+change
		if change == " KEY" {
			update = strings.Replace(strings.TrimSuffix(update, change), peerKey, testKey, 1)
		}
		if strings.Contains(change, "offload") {
			said = "does not change the offload of"
		}
		if strings.Contains(change, "encap") {
			continue
		}
		t.Setenv("ESPALIER_STATE_DIR", t.TempDir())
		m := &memory{grants: granted}
		xfrmAgain(t, m, "", args(add)...)
		code, _, stderr := xfrmAgain(t, m, "", args(update)...)
		if (code == 0) != (said == "") || !strings.Contains(stderr, said) {
			t.Errorf("update%s: exit %d: %s", change, code, stderr)
		}
		if code, _, stderr := xfrmAgain(t, m, "", args(update, "--ip-compat")...); code != 0 || !strings.Contains(stderr, said) {
			t.Errorf("update%s --ip-compat: exit %d: %s", change, code, stderr)
		}
	}
	// A larval SA is completed.
	m := &memory{states: []*xfrm.State{{Src: parseState(t, addIn).Src, Dst: parseState(t, addIn).Dst, Proto: unix.IPPROTO_ESP, SPI: 0x1000}}}
	if code, _, stderr := xfrmCall(t, m, "", args(strings.Replace(addIn, "add", "update", 1))...); code != 0 {
		t.Errorf("larval: exit %d: %s", code, stderr)
	}
}

func parseState(t *testing.T, line string) *xfrm.State {
	t.Helper()
	cmd, err := xfrm.Parse(strings.Fields(line), xfrm.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return cmd.State
}

// What the kernel is known to refuse is not sent to it.
func TestXfrmForeseen(t *testing.T) {
	m := &memory{grants: granted}
	line := addOut + " tfcpad 5"
	if code, _, stderr := xfrmCall(t, m, "", args(line)...); code != 2 || m.calls != 0 || !strings.Contains(stderr, "tfcpad with offload; leave one of them out") {
		t.Errorf("exit %d, %d calls: %s", code, m.calls, stderr)
	}
	if code, _, stderr := xfrmCall(t, m, "", args(line, "--ip-compat")...); code != 0 || len(m.states) != 1 || !strings.Contains(stderr, "warning: tfcpad with offload") {
		t.Errorf("--ip-compat: exit %d: %s", code, stderr)
	}
}

func TestXfrmKeysFromElsewhere(t *testing.T) {
	withKey := func(word string) string { return strings.Replace(addOut, testKey, word, 1) }
	m := &memory{grants: granted}
	if code, _, stderr := xfrmCall(t, m, testKey+"\n", args(withKey("-"))...); code != 0 || strings.Contains(stderr, "visible") {
		t.Fatalf("-: exit %d: %s", code, stderr)
	}
	want := parseState(t, strings.Replace(addOut, " offload dev lo dir out", "", 1)).AEAD.Key
	if !m.states[0].AEAD.Key.Equal(want) {
		t.Error("not the key of standard input")
	}
	if code, _, _ := xfrmCall(t, m, withKey("-"), "-batch", "-"); code != 255 {
		t.Errorf("a batch and a key on standard input: exit %d", code)
	}

	file := filepath.Join(t.TempDir(), "new")
	m = &memory{grants: granted}
	code, _, stderr := xfrmCall(t, m, "", args(withKey("@"+file), "--generate-key")...)
	info, err := os.Stat(file)
	if code != 0 || err != nil || info.Mode().Perm() != 0o600 || m.states[0].AEAD.Key.Len() != 36 {
		t.Fatalf("--generate-key: exit %d, %v: %s", code, err, stderr)
	}
	first, _ := os.ReadFile(file)
	m = &memory{grants: granted}
	xfrmCall(t, m, "", args(withKey("@"+file), "--generate-key")...)
	if second, _ := os.ReadFile(file); string(first) != string(second) || len(m.states) != 1 {
		t.Error("a key file that was there has been changed, or not taken")
	}

	m = &memory{grants: granted}
	if code, _, stderr := xfrmCall(t, m, "", args(withKey("--generate-key"))...); code != 0 || m.states[0].AEAD.Key.Len() != 36 {
		t.Errorf("in place of a key: exit %d: %s", code, stderr)
	}
	_, one, _ := xfrmCall(t, m, "", "--generate-key")
	_, other, _ := xfrmCall(t, m, "", "--generate-key")
	if len(one) != len("0x")+72+1 || one == other {
		t.Errorf("alone: %d and %d bytes, the same: %v", len(one), len(other), one == other)
	}
}

// A batch that fails midway leaves what it has found.
func TestXfrmAtomic(t *testing.T) {
	start := func() *refuser {
		m := &refuser{memory: memory{grants: granted}, takes: 1}
		xfrmCall(t, m, "policy add src 1.1.1.1 dir fwd\n", "-batch", "-")
		return m
	}
	m := start()
	script := "policy add src 1.1.1.1 dir out\npolicy delete src 1.1.1.1 dir fwd\n" + addOut + "\n" + addIn + "\n"
	code, _, stderr := xfrmCall(t, m, script, "--atomic", "-batch", "-")
	if code != 2 || !strings.Contains(stderr, "stdin:4: ") || !strings.Contains(stderr, "has been undone") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if len(m.states) != 0 || len(m.policies) != 1 || m.policies[0].Dir != xfrm.PolicyFwd {
		t.Errorf("left: %d SAs, policies %v", len(m.states), m.policies)
	}

	for script, said := range map[string]string{
		"state delete dst 10.0.0.2 proto esp spi 5\n" + addOut: "deleted at the end",
		addOut + "\nstate flush":                               "cannot be undone",
		addOut + "\nstate delete dst 10.0.0.2 proto esp spi 5": "nothing was done",
	} {
		m := start()
		if code, _, stderr := xfrmCall(t, m, script, "--atomic", "-batch", "-"); code == 0 || len(m.states) != 0 || !strings.Contains(stderr, said) {
			t.Errorf("%q: exit %d: %s", script, code, stderr)
		}
	}

	m = start()
	m.takes = 2
	xfrmCall(t, m, addOut, "-batch", "-")
	renew := addIn + "\nstate delete dst 10.0.0.1 proto esp spi 0x1001"
	if code, _, stderr := xfrmCall(t, m, renew, "--atomic", "-batch", "-"); code != 0 || len(m.states) != 1 || m.states[0].SPI != 0x1000 {
		t.Errorf("renew: exit %d: %s", code, stderr)
	}
	if _, _, err := parseXfrmOptions([]string{"--atomic", "-force", "-batch", "-"}); err == nil {
		t.Error("--atomic and -force go together")
	}
}
