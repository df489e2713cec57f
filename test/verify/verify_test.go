// Package verify has espalier verify prove what two userspace devices do, and fail where they do
// not understand each other.
package verify

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// view is what the tests look at of the JSON.
type view struct {
	Schema, Result, Verdict string
	OK                      bool
	Why                     []string
	Here                    struct{ Verdict, Why string }
	Probes                  struct {
		Protocol      string
		Sent, Carried uint64
	}
	Peer *struct {
		Accepted, Forged uint64
		Decrypts         string
	}
	Tap *struct{ ESP, Readable, Opened uint64 }
}

// name of the form of ESP.
func name(p lab.Pair) string {
	words := []string{"transport"}
	if p.Tunnel {
		words[0] = "tunnel"
	}
	for word, is := range map[string]bool{"IPv6": p.V6, "ESN": p.ESN, "UDP": p.UDP, "software": p.Software} {
		if is {
			words = append(words, word)
		}
	}
	slices.Sort(words[1:])
	return strings.Join(words, ", ")
}

func newPair(t *testing.T, p lab.Pair) *lab.Lab {
	t.Helper()
	lab.Root(t)
	lab.Tools(t, "ip", "nsenter")
	l := lab.New(t, "")
	for _, h := range l.Hosts() {
		h.StartDevice()
	}
	l.Program(p)
	reachBySSH(t, l.B)
	return l
}

// reachBySSH puts a program in the place of ssh, by which every destination is one host of the lab.
func reachBySSH(t *testing.T, h *lab.Host) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nfor command; do :; done\nexec nsenter --net=/proc/%d/ns/net sh -c \"$command\"\n", h.PID())
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// verify runs the command on A and decodes what it says. Its exit status goes with that.
func verify(t *testing.T, l *lab.Lab, stdin *os.File, args ...string) view {
	t.Helper()
	cmd := exec.Command(lab.Binary(t), append([]string{"verify", "--sad", "unix:" + l.A.Socket, "-o", "json"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1 exitcode=66 atexit_sleep_ms=0")
	cmd.Stdin = stdin
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := l.A.Start(cmd); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	var v view
	if err := json.Unmarshal(out.Bytes(), &v); err != nil || v.Schema != "espalier/verify/v1" {
		t.Fatalf("verify %v: %v in %q; %s", args, err, out.String(), said.String())
	}
	if code, want := cmd.ProcessState.ExitCode(), map[bool]int{true: 0, false: 3}[v.OK]; code != want {
		t.Errorf("verify %v: exit %d, want %d: %s%s", args, code, want, out.String(), said.String())
	}
	for _, p := range []lab.Pair{{}, {V6: true}} {
		for _, sa := range p.SAs() {
			if text := out.String() + said.String(); strings.Contains(text, hex.EncodeToString(sa.Key[:8])) {
				t.Errorf("verify %v shows a key: %s", args, text)
			}
		}
	}
	return v
}

// The peer's device has verified the ICVs; who made them is known here. Without it nobody knows.
func TestPeer(t *testing.T) {
	for _, p := range []lab.Pair{{}, {Tunnel: true}, {V6: true}, {V6: true, Tunnel: true, ESN: true}, {UDP: true}, {Software: true}} {
		t.Run(name(p), func(t *testing.T) {
			l := newPair(t, p)
			want := "EMULATED"
			if p.Software {
				want = "SOFTWARE"
			}
			v := verify(t, l, nil, "--peer", "b", "--peer-sad", "unix:"+l.B.Socket)
			if v.Result != "PROVEN" || !v.OK || v.Verdict != want || v.Here.Verdict != want {
				t.Errorf("%+v", v)
			}
			if v.Peer == nil || v.Peer.Accepted < v.Probes.Sent || v.Probes.Sent != 10 || v.Probes.Carried < 10 || v.Peer.Decrypts != "userspace" {
				t.Errorf("%+v, %+v", v.Probes, v.Peer)
			}
			if v := verify(t, l, nil); v.Result != "UNKNOWN" || v.OK || v.Verdict != "UNKNOWN" || v.Here.Verdict != want || len(v.Why) == 0 {
				t.Errorf("without a peer: %+v", v)
			}
			if v := verify(t, l, nil, "--peer", "b", "--peer-sad", "unix:"+l.B.Socket, "--require", "hardware"); v.Result != "PROVEN" || v.OK {
				t.Errorf("hardware was required: %+v", v)
			}
		})
	}
}

// Hosts that have different keys refuse what they send each other.
func TestOtherKey(t *testing.T) {
	l := newPair(t, lab.Pair{})
	l.B.Xfrm("state", "flush")
	script := l.States(l.B, lab.Pair{})
	key := hex.EncodeToString(lab.Pair{}.SAs()[0].Key)
	l.B.Batch(strings.ReplaceAll(script, key, strings.Repeat("5a", len(key)/2)))
	v := verify(t, l, nil, "--peer", "b", "--peer-sad", "unix:"+l.B.Socket)
	if v.Result != "FAILED" || v.OK || v.Peer == nil || v.Peer.Forged < 10 || v.Peer.Accepted != 0 {
		t.Errorf("%+v, %+v", v, v.Peer)
	}
	// The wire tells nothing of that: a device keeps its keys to itself.
	v = verify(t, l, lab.Tap(t, l.Device, l.B.Do), "--tap", "-")
	if v.Result != "PROVEN" || v.Tap == nil || v.Tap.ESP < 10 || v.Tap.Readable != 0 || v.Tap.Opened != 0 {
		t.Errorf("%+v, %+v", v, v.Tap)
	}
}

// A tap sees ESP and no probe; one that is elsewhere sees nothing, and proves nothing.
func TestTap(t *testing.T) {
	l := newPair(t, lab.Pair{})
	file, err := os.Create(filepath.Join(t.TempDir(), "wire.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lab.Capture(t, l.Device, l.B.Do, file)
	v := verify(t, l, nil, "--tap", file.Name())
	if v.Result != "PROVEN" || !v.OK || v.Verdict != "EMULATED" || v.Tap == nil || v.Tap.ESP < 10 || v.Tap.Readable != 0 {
		t.Errorf("%+v, %+v", v, v.Tap)
	}
	empty := filepath.Join(t.TempDir(), "empty.pcap")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, l, nil, "--tap", empty, "--wait", "100ms"); v.Result != "UNKNOWN" || v.OK {
		t.Errorf("a tap that sees nothing: %+v", v)
	}
}

// A tap by which probes can be read says so: here one behind their decryption, where the device gathers
// several in one.
func TestReadable(t *testing.T) {
	l := newPair(t, lab.Pair{})
	v := verify(t, l, lab.Tap(t, l.B.TUNName(), l.B.Do), "--tap", "-", "--peer", "b", "--peer-sad", "unix:"+l.B.Socket)
	if v.Result != "FAILED" || v.OK || v.Verdict != "UNKNOWN" || v.Tap == nil || v.Tap.Readable == 0 || v.Peer.Accepted < 10 {
		t.Errorf("%+v, %+v", v, v.Tap)
	}
}

func TestWords(t *testing.T) {
	l := newPair(t, lab.Pair{})
	sad := "unix:" + l.A.Socket
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"0x9999"}, 1, "no SA 0x00009999 sends"},
		{[]string{"192.168.1.99"}, 1, "192.168.1.99"},
		{[]string{"--tap", "/nowhere"}, 1, "/nowhere"},
		{[]string{"--tap", "/dev/zero"}, 1, "not a capture"},
		{[]string{"nonsense"}, 2, "neither an SPI nor"},
		{[]string{"1", "2"}, 2, "no place"},
		{[]string{"--to", "x"}, 2, "not an IP address"},
		{[]string{"--count", "0"}, 2, "--count 0"},
		{[]string{"--require", "magic"}, 2, "--require magic"},
		{[]string{"-o", "xml"}, 2, "-o xml"},
		{[]string{"--peer", "b", "--peer-sad", "unix:/nowhere"}, 1, "/nowhere"},
	} {
		r := l.A.Espalier(append([]string{"verify", "--sad", sad}, c.args...)...)
		if r.Code != c.code || !strings.Contains(r.Stderr, c.says) || r.Stdout != "" {
			t.Errorf("verify %v: exit %d, want %d with %q:\n%s%s", c.args, r.Code, c.code, c.says, r.Stdout, r.Stderr)
		}
	}
	r := l.A.Espalier("verify", "--sad", sad, "--peer", "b", "--peer-sad", "unix:"+l.B.Socket)
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "0x00001000 192.168.1.64→192.168.1.65: PROVEN, EMULATED\n") {
		t.Errorf("exit %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Log("\n" + r.Stdout)
	r = l.A.Espalier("verify", "--sad", sad)
	if r.Code != 3 || !strings.HasPrefix(r.Stdout, "0x00001000 192.168.1.64→192.168.1.65: UNKNOWN\n") {
		t.Errorf("exit %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Log("\n" + r.Stdout)
}
