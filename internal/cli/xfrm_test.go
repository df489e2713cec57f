package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

const (
	testKey = "0x492e8ffe718a95a00c1893ea61afc64997f4732848ccfe6ea07db483175cb18de9ae411a"
	peerKey = "0x44c0f3b1a5de7e8a3a2e6d7c90c0b6f1d2e3f4051627384950617283940a1b2c3d4e5f60"
	addIn   = "state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1000 dir in replay-window 64 aead rfc4106(gcm(aes)) " + peerKey + " 128"
	addOut  = "state add src 10.0.0.2 dst 10.0.0.1 proto esp spi 0x1001 aead rfc4106(gcm(aes)) " + testKey + " 128 offload dev lo dir out"
)

// memory is an engine that keeps what it is given. Offload is granted as the field says.
type memory struct {
	states   []*xfrm.State
	policies []*xfrm.Policy
	grants   func(*xfrm.Offload) *xfrm.Offload
	calls    int
	events   []struct {
		xfrm.Event
		error
	}
	told func() // called when all events were told; nil: nothing is
}

func (m *memory) find(id xfrm.StateID) int {
	return slices.IndexFunc(m.states, func(s *xfrm.State) bool {
		return s.Dst == id.Dst && s.SPI == id.SPI && s.Proto == id.Proto
	})
}

func (m *memory) AddState(_ context.Context, s *xfrm.State) error {
	m.calls++
	if m.find(s.ID()) >= 0 {
		return ipsec.ErrExist
	}
	kept := *s
	if kept.Offload != nil {
		kept.Offload = m.grants(kept.Offload)
	}
	m.states = append(m.states, &kept)
	return nil
}

func (m *memory) UpdateState(context.Context, *xfrm.State) error { m.calls++; return nil }

func (m *memory) DeleteState(_ context.Context, id xfrm.StateID) error {
	m.calls++
	i := m.find(id)
	if i < 0 {
		return ipsec.ErrNotExist
	}
	m.states = slices.Delete(m.states, i, i+1)
	return nil
}

func (m *memory) GetState(_ context.Context, id xfrm.StateID) (*xfrm.State, error) {
	if i := m.find(id); i >= 0 {
		return m.states[i], nil
	}
	return nil, ipsec.ErrNotExist
}

func (m *memory) States(context.Context, xfrm.StateFilter) iter.Seq2[*xfrm.State, error] {
	return func(yield func(*xfrm.State, error) bool) {
		for _, s := range m.states {
			if !yield(s, nil) {
				return
			}
		}
	}
}

func (m *memory) FlushStates(context.Context, uint8) error { m.calls++; m.states = nil; return nil }

func (m *memory) SADInfo(context.Context) (xfrm.SADInfo, error) {
	return xfrm.SADInfo{Count: uint32(len(m.states))}, nil
}

func (m *memory) AddPolicy(_ context.Context, p *xfrm.Policy) error {
	m.calls++
	kept := *p
	kept.Index = uint32(8*(1+len(m.policies))) + uint32(p.Dir)
	m.policies = append(m.policies, &kept)
	return nil
}
func (m *memory) UpdatePolicy(context.Context, *xfrm.Policy) error { m.calls++; return nil }
func (m *memory) DeletePolicy(_ context.Context, id xfrm.PolicyID) error {
	m.policies = slices.DeleteFunc(m.policies, names(id))
	return nil
}
func (m *memory) GetPolicy(_ context.Context, id xfrm.PolicyID) (*xfrm.Policy, error) {
	if i := slices.IndexFunc(m.policies, names(id)); i >= 0 {
		return m.policies[i], nil
	}
	return nil, ipsec.ErrNotExist
}

// names is by index if there is one, else by selector and direction.
func names(id xfrm.PolicyID) func(*xfrm.Policy) bool {
	return func(p *xfrm.Policy) bool {
		return id.Index != 0 && p.Index == id.Index || id.Index == 0 && p.Dir == id.Dir && p.Sel == id.Sel
	}
}

func (m *memory) Policies(context.Context) iter.Seq2[*xfrm.Policy, error] {
	return func(yield func(*xfrm.Policy, error) bool) {
		for _, p := range m.policies {
			if !yield(p, nil) {
				return
			}
		}
	}
}
func (m *memory) FlushPolicies(context.Context, xfrm.PolicyType) error { m.policies = nil; return nil }
func (m *memory) SPDInfo(context.Context) (xfrm.SPDInfo, error)        { return xfrm.SPDInfo{In: 3}, nil }
func (m *memory) AllocateSPI(_ context.Context, r *xfrm.SPIRange) (*xfrm.State, error) {
	s := *r.State
	s.SPI = ipsec.SPI(r.Min)
	return &s, nil
}
func (m *memory) SetThresholds(context.Context, xfrm.Thresholds) error { m.calls++; return nil }
func (m *memory) Defaults(context.Context) (*xfrm.Defaults, error) {
	return &xfrm.Defaults{In: xfrm.DefaultBlock, Fwd: xfrm.DefaultAccept, Out: xfrm.DefaultAccept}, nil
}
func (m *memory) SetDefaults(context.Context, xfrm.Defaults) error { m.calls++; return nil }
func (m *memory) Listen(ctx context.Context, groups ...uint32) iter.Seq2[xfrm.Event, error] {
	return func(yield func(xfrm.Event, error) bool) {
		for _, e := range m.events {
			if !yield(e.Event, e.error) {
				return
			}
		}
		if m.told != nil {
			m.told()
		}
		<-ctx.Done()
		yield(xfrm.Event{}, ctx.Err())
	}
}
func (m *memory) Close() error { return nil }

func granted(o *xfrm.Offload) *xfrm.Offload { return o }
func denied(*xfrm.Offload) *xfrm.Offload    { return nil }

// xfrmCall runs one invocation against an engine, on a host that has seen no key yet.
func xfrmCall(t *testing.T, e engine, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("ESPALIER_STATE_DIR", t.TempDir())
	return xfrmAgain(t, e, stdin, args...)
}

// xfrmAgain runs one invocation on a host that knows the keys of those before.
func xfrmAgain(t *testing.T, e engine, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("ESPALIER_SAD", "kernel")
	opt, words, err := parseXfrmOptions(args)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	run := &xfrmRun{xfrmOptions: opt, stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs,
		open: func(sadChoice) (engine, error) { return e, nil }}
	err = run.run(t.Context(), words)
	if err != nil {
		errs.WriteString(err.Error() + "\n")
	}
	if strings.Contains(errs.String(), testKey[2:20]) || strings.Contains(errs.String(), peerKey[2:20]) {
		t.Error("the key is in stderr")
	}
	return exitCode(err), out.String(), errs.String()
}

func args(line string, options ...string) []string { return append(options, strings.Fields(line)...) }

func TestXfrmExitCodes(t *testing.T) {
	m := &memory{grants: granted}
	for _, tt := range []struct {
		line string
		code int
		text string
	}{
		{addIn, 0, ""},
		{addIn, 2, "already exists"},
		{"state delete dst 10.0.0.9 proto esp spi 5", 2, "does not exist"},
		{"state ad modee transport", 255, `did you mean "mode"?`},
		{"bogus", 255, "is not something xfrm knows"},
		{"policy add src 1.1.1.1", 1, "dir in, out or fwd is missing"},
		{"state add dst 1.1.1.1 proto ah spi 3", 1, "requires auth"},
		{"monitor bogus", 255, "is not a group of events"},
		{"monitor file /nonexistent", 255, "no such file"},
		{"state allocspi dst 1.1.1.1 proto esp", 0, ""},
		{"policy set hthresh4 24 24", 0, ""},
		{"policy setdefault in block", 0, ""},
		{"policy setdefault in drop", 255, "is not a default"},
		{"state add dst 1.1.1.x proto esp", 1, "is not an address"},
		{"state add dst 1.1.1.1 proto esp aead a @/nonexistent/key 128", 255, "no such file"},
		{"state list", 0, ""},
		{"state count", 0, ""},
	} {
		code, _, stderr := xfrmCall(t, m, "", args(tt.line)...)
		if code != tt.code || !strings.Contains(stderr, tt.text) {
			t.Errorf("%s: exit %d, want %d with %q: %s", tt.line, code, tt.code, tt.text, stderr)
		}
	}
}

func TestXfrmListAndDelete(t *testing.T) {
	m := &memory{grants: granted}
	xfrmCall(t, m, "", args(addIn)...)
	xfrmCall(t, m, "", args(strings.Replace(addIn, "0x1000", "0x2000", 1))...)
	_, stdout, stderr := xfrmCall(t, m, "", args("state list spi 0x2000")...)
	want := "src 10.0.0.1 dst 10.0.0.2\n\tproto esp spi 0x00002000 reqid 0 mode transport\n\treplay-window 0 \n" +
		"\taead rfc4106(gcm(aes)) <<Keys hidden>> 128\n\tdir in\n"
	if stdout != want || stderr != "sad: kernel (ESPALIER_SAD)\n" {
		t.Errorf("got %q, stderr %q", stdout, stderr)
	}
	if _, stdout, _ = xfrmCall(t, m, "", args("state list", "--show-keys", "-o")...); strings.Count(stdout, peerKey) != 2 || strings.Count(stdout, "\n") != 2 {
		t.Errorf("--show-keys -o: %q", stdout)
	}
	if _, stdout, _ = xfrmCall(t, m, "", args("state list nokeys", "--show-keys")...); strings.Contains(stdout, peerKey) {
		t.Error("nokeys shows keys")
	}
	if _, stdout, _ = xfrmCall(t, m, "", args("state count")...); stdout != "\t SAD count 2\n" {
		t.Errorf("count: %q", stdout)
	}
	if code, _, _ := xfrmCall(t, m, "", args("state deleteall spi 0x2000")...); code != 0 || len(m.states) != 1 || m.states[0].SPI != 0x1000 {
		t.Errorf("deleteall: exit %d, left %v", code, m.states)
	}
	xfrmCall(t, m, "", args("policy add src 1.1.1.1 dir out")...)
	xfrmCall(t, m, "", args("policy add src 1.1.1.1 dir in")...)
	xfrmCall(t, m, "", args("policy deleteall dir in")...)
	if len(m.policies) != 1 || m.policies[0].Dir != xfrm.PolicyOut {
		t.Errorf("policy deleteall left %v", m.policies)
	}
}

func TestXfrmWarnings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(testKey), 0o600); err != nil {
		t.Fatal(err)
	}
	const noReplay = "warning: no anti-replay: captured packets can be replayed; add replay-window 64"
	const typed = "visible in the process list and shell history; use @FILE for it"
	for _, tt := range []struct {
		line string
		want []string
	}{
		{addIn, []string{typed}},
		{strings.Replace(addIn, " replay-window 64", "", 1), []string{noReplay, typed}},
		{strings.Replace(addIn, "dir in replay-window 64", "", 1), []string{noReplay, typed}},
		{strings.Replace(addIn, "dir in replay-window 64", "dir out", 1), []string{typed}},
		{strings.Replace(addIn, peerKey, "@"+file, 1), nil},
		{addIn + " limit byte-hard 0", []string{typed, "limit byte-hard 0 is reached with the first packet"}},
		{addIn + " offload dev lo dir in sel proto icmp", []string{typed, "not of icmp"}},
	} {
		_, _, stderr := xfrmCall(t, &memory{grants: granted}, "", args(tt.line)...)
		if got := strings.Count(stderr, "warning: "); got != len(tt.want) {
			t.Errorf("%s: %d warnings, want %d: %s", tt.line, got, len(tt.want), stderr)
		}
		for _, w := range tt.want {
			if !strings.Contains(stderr, w) {
				t.Errorf("%s: no warning %q in %s", tt.line, w, stderr)
			}
		}
	}
}

func TestXfrmKeyFileOfOthers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(testKey), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	m := &memory{}
	code, _, stderr := xfrmCall(t, m, "", args(strings.Replace(addIn, peerKey, "@"+file, 1))...)
	if code != 255 || m.calls != 0 || !strings.Contains(stderr, "chmod 600 "+file) {
		t.Errorf("exit %d, %d calls: %s", code, m.calls, stderr)
	}
}

func TestXfrmOffloadVerdict(t *testing.T) {
	other := func(o *xfrm.Offload) *xfrm.Offload { return &xfrm.Offload{Ifindex: 99, Flags: o.Flags} }
	for _, tt := range []struct {
		grants func(*xfrm.Offload) *xfrm.Offload
		want   string
		code   int // with --require-offload
	}{
		{granted, "offloaded to lo (crypto)", 0},
		{denied, "NOT offloaded: lo has no ESP offload (esp-hw-offload off [fixed]); the kernel will encrypt in software", 3},
		{other, "NOT offloaded to lo: the SA is with interface 99", 3},
	} {
		m := &memory{grants: tt.grants}
		code, _, stderr := xfrmCall(t, m, "", args(addOut)...)
		if code != 0 || !strings.Contains(stderr, "\n"+tt.want+"\n") || len(m.states) != 1 {
			t.Errorf("exit %d, want %q: %s", code, tt.want, stderr)
		}
		m = &memory{grants: tt.grants}
		code, _, stderr = xfrmCall(t, m, "", args(addOut, "--require-offload")...)
		if code != tt.code || (len(m.states) == 0) != (tt.code == 3) {
			t.Errorf("--require-offload: exit %d, %d states: %s", code, len(m.states), stderr)
		}
	}
	if code, _, stderr := xfrmCall(t, &memory{}, "", args(addIn, "--require-offload")...); code != 1 {
		t.Errorf("--require-offload without offload: exit %d: %s", code, stderr)
	}
}

func TestXfrmBatch(t *testing.T) {
	quoted := strings.Replace(addIn, "rfc4106(gcm(aes))", "'rfc4106(gcm(aes))'", 1)
	script := "# two hosts\nsudo ip xfrm " + quoted + "\n\nip xfrm " + quoted + "\nxfrm policy add dir in\n"
	m := &memory{}
	code, _, stderr := xfrmCall(t, m, script, "-batch", "-")
	if code != 2 || !strings.Contains(stderr, "stdin:4: already exists") || m.calls != 2 {
		t.Errorf("exit %d, %d calls: %s", code, m.calls, stderr)
	}
	m = &memory{}
	code, _, stderr = xfrmCall(t, m, script, "-force", "-b", "-")
	if code != 2 || !strings.Contains(stderr, "stdin:4: already exists") || m.calls != 3 {
		t.Errorf("-force: exit %d, %d calls: %s", code, m.calls, stderr)
	}
	// Nothing is sent when a later line is wrong; every wrong line is named.
	m = &memory{}
	code, _, stderr = xfrmCall(t, m, script+"policy add src 1.1.1.1\npolicy add dri in\n", "-batch", "-")
	if code != 255 || m.calls != 0 || !strings.Contains(stderr, "stdin:6: ") || !strings.Contains(stderr, `stdin:7: policy add: "dri"`) {
		t.Errorf("exit %d, %d calls: %s", code, m.calls, stderr)
	}
	code, _, stderr = xfrmCall(t, m, script+"reboot", "-batch", "-")
	if code != 255 || m.calls != 0 || !strings.Contains(stderr, "stdin:6: this is not a command of ip xfrm") {
		t.Errorf("exit %d, %d calls: %s", code, m.calls, stderr)
	}
	if code, _, stderr = xfrmCall(t, m, "", "-batch", "/nonexistent"); code != 1 || !strings.Contains(stderr, "/nonexistent: no such file") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if code, _, _ = xfrmCall(t, m, "", "-batch", "-", "state", "list"); code != 255 {
		t.Errorf("words and -batch: exit %d", code)
	}
	if code, _, stderr = xfrmCall(t, m, "# nothing\n", "-batch", "-"); code != 0 || stderr != "" {
		t.Errorf("an empty batch: exit %d: %s", code, stderr)
	}
}

func TestXfrmDryRun(t *testing.T) {
	m := &memory{}
	code, stdout, _ := xfrmCall(t, m, "", args(addOut, "--dry-run")...)
	if want := "[#] ip xfrm state add src 10.0.0.2 dst 10.0.0.1 proto esp spi 0x00001001 mode transport aead 'rfc4106(gcm(aes))' '0x<hidden>' 128 offload dev lo dir out\n"; code != 0 || stdout != want {
		t.Errorf("exit %d: %q", code, stdout)
	}
	for line, want := range map[string]string{
		addOut + " dir out replay-window 32":              "replay-window with dir out",
		addOut + " tfcpad 5":                              "tfcpad with offload",
		strings.Replace(addOut, testKey, testKey[:64], 1): "an AES-GCM key of another length",
		strings.Replace(addOut, " 128 ", " 120 ", 1):      "an AES-GCM ICV of other",
		addIn + " replay-oseq 4":                          "replay-oseq with dir in",
		addIn + " extra-flag oseq-may-wrap":               "dont-encap-dscp or oseq-may-wrap with dir in",
		addOut + " replay-seq 4":                          "replay-seq with dir out",
		addOut + " flag icmp":                             "wildrecv with dir out",
	} {
		code, _, stderr := xfrmCall(t, m, "", args(line, "--dry-run")...)
		if code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d: %s", line, code, stderr)
		}
	}
	if m.calls != 0 {
		t.Errorf("--dry-run sent %d requests", m.calls)
	}
}

func TestXfrmJSON(t *testing.T) {
	m := &memory{grants: granted}
	decode := func(text string) map[string]any {
		t.Helper()
		if strings.Contains(text, testKey[2:20]) {
			t.Error("the key is in the JSON")
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return v
	}
	_, stdout, _ := xfrmCall(t, m, "", args(addOut, "-o", "json")...)
	v := decode(stdout)
	if v["schema"] != "espalier/xfrm-state/v1" || v["ok"] != true || v["offload"].(map[string]any)["granted"] != true {
		t.Errorf("add: %v", v)
	}
	_, stdout, _ = xfrmCall(t, m, "", args("state list", "-o", "json", "--show-keys")...)
	v = decode(stdout)
	states := v["states"].([]any)
	s := states[0].(map[string]any)
	if v["sad"] != "kernel" || len(states) != 1 || s["spi"] != "0x00001001" || s["offload"].(map[string]any)["dev"] != "lo" || s["aead"].(map[string]any)["key_bits"] != 288.0 {
		t.Errorf("list: %v", v)
	}
	code, stdout, _ := xfrmCall(t, m, "", args("state add x", "-o", "json")...)
	if v = decode(stdout); v["ok"] != false || v["exit"] != 255.0 || code != 255 {
		t.Errorf("error: %v", v)
	}
	code, stdout, _ = xfrmCall(t, m, "policy list\nstate get dst 1.1.1.1 proto esp spi 3\n", "-o", "json", "-batch", "-")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 2 || code != 2 {
		t.Fatalf("batch: exit %d: %s", code, stdout)
	}
	if v = decode(lines[0]); v["schema"] != "espalier/xfrm-policy/v1" || v["line"] != 1.0 || len(v["policies"].([]any)) != 0 {
		t.Errorf("batch: %v", v)
	}
	if v = decode(lines[1]); v["ok"] != false || v["line"] != 2.0 || v["exit"] != 2.0 {
		t.Errorf("batch: %v", v)
	}
	_, stdout, _ = xfrmCall(t, m, "", args(addOut+" tfcpad 4", "-o", "json", "--dry-run")...)
	if v = decode(stdout); v["ok"] != false || len(v["refusals"].([]any)) != 2 {
		t.Errorf("dry run: %v", v)
	}
}

func TestXfrmOptions(t *testing.T) {
	for line, want := range map[string]xfrmOptions{
		"-s -4 state list": {stats: true, family: 2},
		"-stat -f inet6 -d -N -c -rc 5 -ec state list": {stats: true, family: 10},
		"-t m": {timestamp: timestampLong}, "-ts m": {timestamp: timestampShort}, "-ti -o m": {timestamp: timestampLong, format: formatOneLine},
		"-br -fo -ba f": {force: true, batch: "f"}, "-color=never state": {}, "state add auth-trunc a -t 96": {}, // a key
		"-o state list":                        {format: formatOneLine},
		"-o json state list":                   {format: formatJSON},
		"--o=json state list":                  {format: formatJSON},
		"state list -o json":                   {format: formatJSON},
		"-o wide state list":                   {format: formatWide, stats: true},
		"-j -n red state":                      {format: formatJSON, netns: "red"},
		"--sad unix:/x --show-keys state":      {sadFlag: "unix:/x", showKeys: true},
		"--sad=kernel --require-offload state": {sadFlag: "kernel", requireOffload: true},
		"-b f -force --dry-run":                {batch: "f", force: true, dryRun: true},
		"state add aead a -s 128":              {}, // a key
		"--help":                               {help: true},
		"help":                                 {}, // a word, see TestXfrmHelp
		"-o yaml state list":                   {format: formatYAML},
	} {
		if got, _, err := parseXfrmOptions(strings.Fields(line)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for line, want := range map[string]string{
		"":                   "nothing to do",
		"-x state":           "there is no option",
		"-f link state":      "inet or inet6",
		"-o=xml state":       "json, yaml, wide",
		"state list --sad":   "needs a value",
		"--force=yes state":  "takes no value",
		"-" + testKey + " a": "there is no option",
	} {
		_, _, err := parseXfrmOptions(strings.Fields(line))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), testKey[2:20]) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestXfrmConnectFails(t *testing.T) {
	t.Setenv("ESPALIER_SAD", "kernel")
	var out, errs bytes.Buffer
	run := &xfrmRun{stdout: &out, stderr: &errs, open: func(sadChoice) (engine, error) { return nil, errors.New("no netlink") }}
	if err := run.run(t.Context(), []string{"state"}); exitCode(err) != 2 || !strings.Contains(err.Error(), "no netlink") {
		t.Errorf("%v", err)
	}
}

// TestXfrmHelp: the word help gets usage and ip's exit code, the option --help succeeds.
func TestXfrmHelp(t *testing.T) {
	for line, want := range map[string]int{
		"help": 255, "h": 255, "state help": 255, "s hel": 255, "policy help me": 255, "-s state help": 255,
		"--help": 0, "-h": 0, "state --help": 0,
		"state add help": 255, "hlep": 255,
	} {
		var out, errs bytes.Buffer
		code := Main(t.Context(), append([]string{"xfrm"}, strings.Fields(line)...), strings.NewReader(""), &out, &errs)
		usage := ""
		if !strings.Contains(line, "add") && line != "hlep" {
			usage = xfrmLong
		}
		if want == 0 {
			if code != 0 || out.String() != usage || errs.String() != "" {
				t.Errorf("%s: exit %d, %q, %q", line, code, out.String(), errs.String())
			}
			continue
		}
		if code != want || out.String() != "" || (errs.String() == xfrmLong) != (usage != "") {
			t.Errorf("%s: exit %d, %q, %q", line, code, out.String(), errs.String())
		}
	}
}

// TestXfrmMonitor: events come one by one, in text or one object a line; what goes wrong with one
// does not end it, the end of the context does, with the exit code of an interrupt.
func TestXfrmMonitor(t *testing.T) {
	type event = struct {
		xfrm.Event
		error
	}
	sa := &xfrm.State{
		Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: 50, SPI: 7, Limits: xfrm.NoLimits,
		AEAD: &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.NewKey([]byte(testKey)), ICVBits: 128},
	}
	m := &memory{events: []event{
		{Event: xfrm.Event{Kind: xfrm.MsgUpdSA, State: sa}},
		{error: fmt.Errorf("listen: %w", unix.ENOBUFS)},
		{Event: xfrm.Event{Kind: xfrm.MsgExpire}, error: errors.New("cut short")},
		{Event: xfrm.Event{Kind: xfrm.MsgExpire, State: sa, Hard: true}},
		{Event: xfrm.Event{Kind: xfrm.MsgFlushSA, Proto: 50}},
	}}
	call := func(args ...string) (string, string, error) {
		t.Setenv("ESPALIER_SAD", "kernel")
		opt, words, err := parseXfrmOptions(args)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		m.told = cancel
		var out, errs bytes.Buffer
		run := &xfrmRun{xfrmOptions: opt, stdout: &out, stderr: &errs, open: func(sadChoice) (engine, error) { return m, nil }}
		err = run.run(ctx, words)
		return out.String(), errs.String(), err
	}
	stdout, stderr, err := call("monitor", "SA")
	if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"Updated src 10.0.0.1 dst 10.0.0.2\n", "<<Keys hidden>>", "Expired src 10.0.0.1", "\thard 1\n", "Flushed state proto esp\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in %s", want, stdout)
		}
	}
	if strings.Contains(stdout, hex.EncodeToString([]byte(testKey))) || !strings.Contains(stderr, "some are lost") || !strings.Contains(stderr, "cut short") {
		t.Errorf("%s\n%s", stdout, stderr)
	}
	if stdout, _, _ = call("--show-keys", "monitor"); !strings.Contains(stdout, hex.EncodeToString([]byte(testKey))) {
		t.Error("--show-keys shows none")
	}
	if stdout, _, _ = call("--show-keys", "monitor", "nokeys"); strings.Contains(stdout, hex.EncodeToString([]byte(testKey))) {
		t.Error("nokeys shows keys")
	}
	if stdout, _, _ = call("-ts", "monitor"); !regexp.MustCompile(`(?m)^\[\d{4}-\d\d-\d\dT[\d:.]{15}\] Updated src`).MatchString(stdout) {
		t.Errorf("-ts: %s", stdout)
	}
	if stdout, _, _ = call("-t", "-o", "monitor"); !regexp.MustCompile(`(?m)^Timestamp: .* \d+ usec\nUpdated src .*\\$`).MatchString(stdout) {
		t.Errorf("-t -o: %s", stdout)
	}
	stdout, _, _ = call("-o", "json", "--show-keys", "monitor")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 4 || strings.Contains(stdout, hex.EncodeToString([]byte(testKey))) { // and the failure
		t.Fatalf("%d lines: %s", len(lines), stdout)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(lines[1]), &v); err != nil || v["event"] != "EXPIRE" || v["hard"] != true || v["schema"] != "espalier/xfrm-monitor/v1" {
		t.Errorf("%v, %v", v, err)
	}
	if _, _, err := call("monitor", "all-nsid"); exitCode(err) != 1 {
		t.Errorf("all-nsid: %v", err)
	}
}

// TestXfrmNewCommands: what the grammar has beyond SAs and policies.
func TestXfrmNewCommands(t *testing.T) {
	m := &memory{}
	if code, stdout, _ := xfrmCall(t, m, "", args("policy getdefault")...); code != 0 || stdout != "Default policies:\n in:  block\n fwd: accept\n out: accept\n" {
		t.Errorf("getdefault: %d, %q", code, stdout)
	}
	if _, stdout, _ := xfrmCall(t, m, "", args("policy getdefault", "-o", "json")...); !strings.Contains(stdout, `"defaults":{"in":"block","fwd":"accept","out":"accept"}`) {
		t.Errorf("getdefault: %s", stdout)
	}
	if _, stdout, _ := xfrmCall(t, m, "", args("state allocspi dst 10.0.0.1 proto esp min 5 max 9")...); !strings.Contains(stdout, "spi 0x00000005") {
		t.Errorf("allocspi: %s", stdout)
	}
	// Algorithms other than GCM: no panic, no key, a warning where there is an offload.
	line := "state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 9 enc cbc(aes) " + testKey + " auth-trunc hmac(sha256) " + testKey + " 128 offload dev lo dir in replay-window 32"
	code, _, stderr := xfrmCall(t, &memory{grants: granted}, "", args(line)...)
	if code != 0 || !strings.Contains(stderr, "NICs offload only aead") {
		t.Errorf("cbc: exit %d: %s", code, stderr)
	}
	code, stdout, _ := xfrmCall(t, m, "", args(line, "--dry-run")...)
	if code != 0 || strings.Count(stdout, "0x<hidden>") != 2 {
		t.Errorf("dry run: exit %d: %s", code, stdout)
	}
}
