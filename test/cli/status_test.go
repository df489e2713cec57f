package cli

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
)

// seen is what a test looks at of `espalier status -o json`.
type seen struct {
	OK      bool   `json:"ok"`
	Verdict string `json:"verdict"`
	Pairs   []struct {
		Local, Peer, Verdict string
		Out, In              *struct {
			SPI, Verdict, Reason, Why string
			Sequence, Packets         uint64
			Replayed, Forged          uint64
			Offload                   *struct{ Dev, Mode string }
			Age                       *float64                 `json:"age_seconds"`
			Interval                  struct{ Packets uint64 } `json:"in_interval"`
		}
	}
	Findings []struct{ ID string }
	Drops    []struct {
		Reason string
		Moved  uint64 `json:"in_interval"`
	}
}

// status asks the host's device, for its interval sending pings, if any.
func status(t *testing.T, h *lab.Host, code int, args ...string) (s seen, text string) {
	t.Helper()
	r := h.Espalier(append([]string{"status", "--sad", "unix:" + h.Socket, "-o", "json"}, args...)...)
	if r.Code != code {
		t.Fatalf("exit %d, want %d: %s", r.Code, code, r.Stderr)
	}
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	return s, r.Stdout
}

// A userspace device's SAs are EMULATED while they carry something, IDLE when they do not, and
// SOFTWARE if they were not offloaded to it.
func TestStatusOfDevice(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "p4p1")
	offloaded, software := lab.Pair{}, lab.Pair{V6: true, Software: true, SPI: 0x2000, Reqid: 0x2000}
	for _, h := range l.Hosts() {
		h.StartDevice()
		h.Batch(l.Script(h, offloaded) + l.Script(h, software))
	}
	pinging := make(chan bool)
	for _, to := range []netip.Addr{lab.B4, lab.B6} { // before, in and after the interval
		go func() { pinging <- l.A.Ping(to, 60, "-i", "0.1") }()
	}
	s, text := status(t, l.A, 0, "--interval", "1s")
	for range 2 {
		if !<-pinging {
			t.Error("ping failed")
		}
	}
	want := map[string][2]string{lab.B4.String(): {"EMULATED", "userspace"}, lab.B6.String(): {"SOFTWARE", "no-offload"}}
	if len(s.Pairs) != 2 || len(s.Findings) != 0 || !s.OK || s.Verdict != "SOFTWARE" {
		t.Fatalf("%+v", s)
	}
	for _, p := range s.Pairs {
		w := want[p.Peer]
		if p.Out == nil || p.In == nil {
			t.Errorf("%s: half a pair", p.Peer)
			continue
		}
		if p.Verdict != w[0] || p.Out.Reason != w[1] || p.In.Reason != w[1] {
			t.Errorf("%s: %s (%s, %s), want %v", p.Peer, p.Verdict, p.Out.Why, p.In.Why, w)
		}
		if (p.Out.Offload == nil) != (w[0] == "SOFTWARE") || p.Out.Age == nil || p.Out.Sequence < 10 || p.In.Interval.Packets == 0 {
			t.Errorf("%+v, %+v", p.Out, p.In)
		}
	}
	for _, secret := range []string{"4306", "key_bits\":0x"} { // no algorithm with its key, no key
		if strings.Contains(text, secret) {
			t.Errorf("%s in %s", secret, text)
		}
	}

	if s, _ := status(t, l.A, 3, "--interval", "0s", "--require", "hardware"); s.Verdict != "IDLE" || s.OK {
		t.Errorf("%+v", s)
	}
	if s, _ := status(t, l.A, 0, "--interval", "0s", "--dev", "p4p1"); len(s.Pairs) != 1 || s.Pairs[0].Peer != lab.B4.String() {
		t.Errorf("of p4p1: %+v", s.Pairs)
	}
	if r := l.A.Espalier("status", "--sad", "unix:"+l.A.Socket, "--dev", "p4p9"); r.Code != 2 || !strings.Contains(r.Stderr, "p4p9: there is no such device here, but ") || !strings.Contains(r.Stderr, "p4p1") {
		t.Errorf("a device that is not there: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := l.A.Espalier("status", "--sad", "unix:"+l.A.Socket, "--interval", "0s", "--dev", "lo"); r.Code != 0 || r.Stdout != "no SA is offloaded to lo\n" {
		t.Errorf("a device without SAs: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	r := l.A.Espalier("status", "--sad", "unix:"+l.A.Socket, "--interval", "100ms")
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "IDLE  2 SA pairs, ") || !strings.Contains(r.Stdout, "192.168.1.64 ↔ 192.168.1.65: IDLE") {
		t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// Watching goes on until it is interrupted, which is no failure, and writes one object a line.
func TestStatusWatch(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "timeout")
	h := lab.New(t, "p4p1").A
	h.StartDevice()
	r := h.Command("timeout", "--preserve-status", "-s", "INT", "5", lab.Binary(t), "status", "--sad", "unix:"+h.Socket, "--watch", "--interval", "50ms", "-o", "json")
	if r.Code != 0 || strings.Count(r.Stdout, "\n") < 2 || strings.Contains(r.Stdout, "\x1b") {
		t.Errorf("exit %d: %.2000q %s", r.Code, r.Stdout, r.Stderr)
	}
	for line := range strings.Lines(r.Stdout) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not an object: %q", line)
		}
	}
}

// A round that fails does not end watching: the device is back for the next.
func TestStatusWatchGoesOn(t *testing.T) {
	t.Parallel()
	h := lab.New(t, "p4p1").A
	h.StartDevice()
	cmd := exec.Command(lab.Binary(t), "status", "--sad", "unix:"+h.Socket, "--watch", "--interval", "200ms", "-o", "json")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = h.Start(cmd)
	}
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	var told []bool
	times := map[float64]bool{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var o struct {
			OK   bool
			Time float64
		}
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatalf("%v: %q", err, lines.Text())
		}
		if o.OK && times[o.Time] {
			t.Errorf("told twice: %.200s", lines.Text())
		}
		times[o.Time] = true
		if n := len(told); n > 0 && told[n-1] == o.OK {
			continue
		}
		switch told = append(told, o.OK); len(told) {
		case 1:
			h.Stop()
		case 2:
			h.StartDevice()
		case 3:
			cmd.Process.Signal(os.Interrupt)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if !slices.Equal(told, []bool{true, false, true}) {
		t.Errorf("told in turn: %v", told)
	}
}

// Without SAs there are policies for the want of which packets are dropped: that is watched, too.
func TestStatusWithoutSAs(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "p4p1")
	l.A.StartDevice()
	l.A.Batch(l.Policies(l.A, lab.Pair{}))
	done := make(chan bool)
	go func() { done <- l.A.Ping(lab.B4, 20, "-i", "0.2", "-W", "1") }()
	s, _ := status(t, l.A, 0, "--interval", "3s")
	if <-done {
		t.Error("a ping was answered without an SA")
	}
	for _, d := range s.Drops {
		if d.Reason == "out-no-sa" && d.Moved > 0 {
			return
		}
	}
	t.Errorf("dropped: %+v", s.Drops)
}

// What goes wrong is told: an SA that is gone, a window that is closed, and what was dropped for it.
func TestStatusFindings(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "p4p1")
	p := lab.Pair{}
	for _, h := range l.Hosts() {
		h.StartDevice()
		h.Batch(l.Policies(h, p))
	}
	l.A.Batch(strings.ReplaceAll(l.Inbound(l.A, p), "replay-window 64", "replay-window 0"))
	done := make(chan bool)
	go func() { done <- l.A.Ping(lab.B4, 3, "-W", "1") }()
	s, _ := status(t, l.A, 0, "--interval", "2s")
	if <-done {
		t.Error("a ping was answered without an SA")
	}
	var ids []string
	for _, f := range s.Findings {
		ids = append(ids, f.ID)
	}
	if got := strings.Join(ids, " "); got != "policy-without-sa window-0 one-sided" {
		t.Errorf("found: %s", got)
	}
	moved := map[string]uint64{}
	for _, d := range s.Drops {
		moved[d.Reason] = d.Moved
	}
	if moved["out-no-sa"] == 0 {
		t.Errorf("dropped: %v", moved)
	}
	r := l.A.Espalier("explain", "--sad", "unix:"+l.A.Socket)
	if r.Code != 0 || !strings.Contains(r.Stdout, "out-no-sa (counted as XfrmOutNoStates): ") {
		t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
}
