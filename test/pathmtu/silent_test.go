package pathmtu

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
)

// The router drops what is too big and says nothing. Probes find out what comes through, and TCP goes
// on with segments that fit exactly. The host sees nothing of the probes.
func TestSilentRouter(t *testing.T) {
	for _, f := range forms() {
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			p := newPath(t, "--pmtu-probe", "2s")
			p.deafen()
			p.Program(f)
			_, b := f.Ends()
			ip := headerLen(f)
			want := fits(f, narrow)
			if f.V6 {
				want = max(want, 1280)
			}
			if got := sentMSS(t, p, p.A, b) + ip + 20 + 12; got != want {
				t.Errorf("TCP sends packets of %d bytes, %d fit; drops %v", got, want, p.A.Drops())
			}
			at, to := listen(t, p, b)
			arrives(t, p, dial(t, p, to, true), at, want-ip-8)
			arrives(t, p, dial(t, p, to, false), at, 4000)
			if n := counter(t, p.A, "InEchoReps") + counter(t, p.A, "Icmp6InEchoReplies"); n > 0 {
				t.Errorf("the host got %d echo replies", n)
			}
			p.wantLog(t, p.A, "probing found it", "mtu=1300")
		})
	}
}

// The control of TestSilentRouter: without probes TCP stands still.
func TestSilentRouterWithoutProbes(t *testing.T) {
	t.Parallel()
	p := newPath(t, "--pmtu-probe", "0")
	p.deafen()
	p.Program(lab.Pair{})
	if err := transfer(p, p.A, lab.B4, 3*time.Second); err == nil {
		t.Error("TCP goes on all the same")
	}
}

// A peer that does not answer: nothing is known, and nothing changes.
func TestDeafPeer(t *testing.T) {
	t.Parallel()
	p := newPath(t, "--pmtu-probe", "1s")
	p.setFar(wide)
	p.B.Must("sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1")
	p.Program(lab.Pair{})
	for range 4 { // several probes long
		if err := transfer(p, p.A, lab.B4, patience); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
	}
	if counter(t, p.B, "InEchos") == 0 {
		t.Error("nothing was asked")
	}
	if strings.Contains(p.A.Log(), "path MTU") {
		t.Error("a path MTU was found")
	}
	if drops := p.A.Drops(); drops["out-too-big"] > 0 {
		t.Errorf("drops %v", drops)
	}
}

// Where all comes through nothing changes, and the host sees neither answers nor fragments of them.
func TestHostSeesNothing(t *testing.T) {
	for _, f := range []lab.Pair{{Tunnel: true}, {Tunnel: true, V6: true, UDP: true}} {
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			p := newPath(t, "--pmtu-probe", "1s")
			p.setFar(wide)
			p.Program(f)
			_, b := f.Ends()
			asked := func() int { return counter(t, p.B, "InEchos") + counter(t, p.B, "Icmp6InEchos") }
			for start := time.Now(); asked() < 4; time.Sleep(100 * time.Millisecond) {
				if time.Since(start) > patience {
					t.Fatal("nothing is asked")
				}
				if err := transfer(p, p.A, b, patience); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{"InEchoReps", "Icmp6InEchoReplies", "ReasmReqds", "Ip6ReasmReqds"} {
				if n := counter(t, p.A, name); n > 0 {
					t.Errorf("the host counts %d %s", n, name)
				}
			}
			if strings.Contains(p.A.Log(), "path MTU") {
				t.Error("a path MTU was found")
			}
		})
	}
}

// A path that has become wider again is found so once what was found has aged.
func TestWiderAgain(t *testing.T) {
	t.Parallel()
	p := newPath(t, "--pmtu-probe", "1s", "--pmtu-age", "3s")
	p.deafen()
	p.Program(lab.Pair{})
	if err := transfer(p, p.A, lab.B4, patience); err != nil {
		t.Fatal(err)
	}
	p.wantLog(t, p.A, "probing found it", "mtu=1300")
	p.setFar(wide)
	p.awaitLog(t, p.A, func() {
		if err := transfer(p, p.A, lab.B4, patience); err != nil {
			t.Fatal(err)
		}
	}, "probing found it", "mtu=1500")
}

// counter is one of the host's kernel, as /proc/net/snmp or snmp6 names it.
func counter(t *testing.T, h *lab.Host, name string) int {
	t.Helper()
	for _, pair := range strings.Fields(h.Must("sh", "-c",
		`awk 'NR % 2 {split($0, names)} NR % 2 == 0 {for (i = 2; i <= NF; i++) print names[i] "=" $i}' /proc/net/snmp; awk '{print $1 "=" $2}' /proc/net/snmp6`)) {
		if key, value, _ := strings.Cut(pair, "="); key == name {
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("host %s has no counter %s", h.Name, name)
	return 0
}

// wantLog wants a line of the host's device that has all the words.
func (p *path) wantLog(t *testing.T, h *lab.Host, words ...string) {
	t.Helper()
	if !logged(h, words) {
		t.Errorf("host %s: no line with %q", h.Name, words)
	}
}

// awaitLog works until there is such a line.
func (p *path) awaitLog(t *testing.T, h *lab.Host, work func(), words ...string) {
	t.Helper()
	for start := time.Now(); !logged(h, words); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("host %s: no line with %q", h.Name, words)
		}
		work()
	}
}

func logged(h *lab.Host, words []string) bool {
next:
	for line := range strings.Lines(h.Log()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		return true
	}
	return false
}
