package guest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/deploy/boot"
	"espalier/guard"
	"espalier/test/lab"
)

// pairAt is what the kernel of a host has of a pair, as the guard is to know it.
func (l *nicLab) pairAt(t *testing.T, h *lab.Host, p lab.Pair) boot.Pair {
	t.Helper()
	local, remote := p.Ends()
	if h == l.B {
		local, remote = remote, local
	}
	pair := boot.Pair{Tunnel: "lab", Local: local, Remote: remote}
	for policy, err := range l.kernel[h].Policies(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		own, err := policy.IPsec()
		if err != nil {
			t.Fatal(err)
		}
		pair.Policies = append(pair.Policies, guard.HostPolicy{Policy: own})
	}
	if p.UDP {
		pair.Encaps = []guard.Encap{{Local: netip.AddrPortFrom(local, 4500), Remote: netip.AddrPortFrom(remote, 4500)}}
	}
	return pair
}

// guarded installs the guard of what the kernels have, as it is done on a host.
func (l *nicLab) guarded(t *testing.T, p lab.Pair, hosts ...*lab.Host) map[*lab.Host]*boot.Place {
	t.Helper()
	places := make(map[*lab.Host]*boot.Place)
	for _, h := range hosts {
		place := &boot.Place{Dir: filepath.Join(h.Dir, "tunnels"), Units: filepath.Join(h.Dir, "units"), Program: Espalier}
		places[h] = place
		pair := l.pairAt(t, h, p)
		inside(t, h, func() error { return place.Install([]boot.Pair{pair}) })
		t.Cleanup(func() {
			inside(t, h, func() error { return errors.Join(place.Remove(), place.Hold(context.Background(), nil)) })
		})
	}
	return places
}

func guardCounters(t *testing.T, h *lab.Host) (c guard.Counters) {
	t.Helper()
	inside(t, h, func() (err error) {
		c, _, err = guard.HostCounters()
		return err
	})
	return c
}

// The guard of the host lets ESP pass, by whatever SA, and nothing in clear once SAs and policies are gone.
func TestHostGuard(t *testing.T) {
	l := newNICLab(t, "p4p1")
	var pairs []lab.Pair
	for _, v6 := range []bool{false, true} {
		for _, tunnel := range []bool{false, true} {
			pairs = append(pairs, lab.Pair{V6: v6, Tunnel: tunnel}, lab.Pair{V6: v6, Tunnel: tunnel, Software: true}, lab.Pair{V6: v6, Tunnel: tunnel, Software: true, UDP: true})
		}
	}
	for i, p := range pairs {
		p.SPI = 0x1000 + uint32(i)*0x10
		way := either(p.UDP, "in UDP", either(p.Software, "software", "the NIC"))
		name := fmt.Sprintf("%s, %s, %s", either(p.V6, "IPv6", "IPv4"), either(p.Tunnel, "tunnel", "transport"), way)
		t.Run(name, func(t *testing.T) {
			l.flush(t)
			l.program(t, p)
			places := l.guarded(t, p, l.A, l.B)
			if p.UDP {
				for h, place := range places {
					inside(t, h, func() error { return place.Hold(context.Background(), []uint16{4500}) })
				}
			}
			l.passesGuarded(t, p)
			l.nothingInClear(t, p, places)
		})
	}
}

// passesGuarded has traffic pass without any loss.
func (l *nicLab) passesGuarded(t *testing.T, p lab.Pair) {
	t.Helper()
	_, b := p.Ends()
	cable := watchCable(t)
	before := [2]map[string]uint64{l.drops(t, l.A), l.drops(t, l.B)}
	if !l.A.Ping(b, 3) {
		t.Error("ping failed")
	}
	if err := lab.Exchange(l.A, l.B, netip.AddrPortFrom(b, 0), exchanged/2); err != nil {
		t.Errorf("TCP: %v", err)
	}
	for i, h := range l.Hosts() {
		if after := l.drops(t, h); fmt.Sprint(after) != fmt.Sprint(before[i]) {
			t.Errorf("host %s dropped %v, before %v", h.Name, after, before[i])
		}
		if c := guardCounters(t, h); c != (guard.Counters{}) {
			t.Errorf("the guard of host %s dropped %+v", h.Name, c)
		}
	}
	if counts, _ := cable.stop(t); counts.Cleartext != 0 || counts.ESP == 0 {
		t.Errorf("on the cable: %+v", counts)
	}
}

// nothingInClear takes SAs and policies away, and has both hosts send all the same: first both guarded, then
// one, whose peer is none the wiser; and last none, which shows that it was the guard.
func (l *nicLab) nothingInClear(t *testing.T, p lab.Pair, places map[*lab.Host]*boot.Place) {
	t.Helper()
	a, b := p.Ends()
	l.flush(t)
	for _, c := range []struct {
		name         string
		open         *lab.Host
		cleartext    bool // on the cable
		in, out      bool // the guard of A has counted it
		comesThrough bool
	}{
		{name: "both guarded", out: true},
		{name: "the peer open", open: l.B, cleartext: true, in: true, out: true},
		{name: "both open", open: l.A, cleartext: true, comesThrough: true},
	} {
		if c.open != nil {
			inside(t, c.open, guard.ReleaseHost)
		}
		before := guardCounters(t, l.A)
		cable := watchCable(t)
		patience := untilLost
		if c.comesThrough {
			patience = untilThere
		}
		came := l.comes(t, l.A, a, l.B, b, patience)
		back := l.comes(t, l.B, b, l.A, a, patience)

		counts, _ := cable.stop(t)
		after := guardCounters(t, l.A)
		if came != c.comesThrough || back != c.comesThrough || (counts.Cleartext > 0) != c.cleartext {
			t.Errorf("%s: arrived %v, on the cable %+v", c.name, came, counts)
		}
		if in, out := after.In > before.In, after.Out > before.Out; in != c.in || out != c.out {
			t.Errorf("%s: the guard of A had counted %+v, and now %+v", c.name, before, after)
		}
	}
}

// TestEncapHolder: ESP in UDP takes somebody who has the port, who comes back when he is killed.
func TestEncapHolder(t *testing.T) {
	l := newNICLab(t, "p4p1")
	for i, v6 := range []bool{false, true} {
		p := lab.Pair{V6: v6, UDP: true, Software: true, SPI: 0x2000 + uint32(i)*0x10}
		t.Run(either(v6, "IPv6", "IPv4"), func(t *testing.T) {
			l.flush(t)
			l.program(t, p)
			if l.arrives(t, p, 50*time.Millisecond) {
				t.Error("ESP in UDP passes without a socket: the test proves nothing")
			}
			places := l.guarded(t, p, l.A, l.B)
			hold := func(h *lab.Host, ports ...uint16) {
				inside(t, h, func() error { return places[h].Hold(context.Background(), ports) })
			}
			hold(l.A, 4500)
			hold(l.B, 4500)
			if !l.arrives(t, p, untilThere) {
				t.Error("nothing passes")
			}
			hold(l.B)
			if l.arrives(t, p, 50*time.Millisecond) {
				t.Error("passes although the holder has ended")
			}
			hold(l.B, 4500)
			killHolder(t, l.B)
			for start := time.Now(); !l.arrives(t, p, 100*time.Millisecond); {
				if time.Since(start) > 2*untilThere {
					t.Fatal("nothing passes after the holder was killed")
				}
			}
			hold(l.B)
			hold(l.A)
		})
	}
}

// killHolder kills the holder of a host, not its supervisor.
func killHolder(t *testing.T, h *lab.Host) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	killed := 0
	own := strings.TrimSpace(read(t, filepath.Join(h.Dir, "tunnels", "encap-4500.lock")))
	for _, file := range files {
		words := strings.Split(read(t, file), "\x00")
		stat := strings.Fields(read(t, filepath.Join(filepath.Dir(file), "stat")))
		if len(words) > 4 && words[1] == boot.HoldCommand && words[4] == "--detached" && stat[4] == own {
			var pid int
			fmt.Sscan(filepath.Base(filepath.Dir(file)), &pid)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("%d holders", killed)
	}
}

// TestHostGuardForwards: what a gateway forwards for the networks behind it is held back likewise.
func TestHostGuardForwards(t *testing.T) {
	l := newNICLab(t, "p4p1")
	c := lab.NewHost(t, "C", "lan0")
	inside(t, l.A, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan0", PeerNamespace: netlink.NsFd(c.Fd())})
	})
	behind, beyond := netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("10.2.0.1")
	l.A.Must("ip", "addr", "add", "10.1.0.1/16", "dev", "lan0")
	l.A.Must("ip", "link", "set", "lan0", "up")
	c.Must("ip", "addr", "add", behind.String()+"/16", "dev", "lan0")
	c.Must("ip", "link", "set", "lan0", "up")
	c.Must("ip", "route", "add", "10.2.0.0/16", "via", "10.1.0.1")
	l.A.Must("ip", "route", "add", "10.2.0.0/16", "via", lab.B4.String())
	l.B.Must("ip", "addr", "add", beyond.String()+"/32", "dev", l.Device)
	l.B.Must("ip", "route", "add", "10.1.0.0/16", "via", lab.A4.String(), "src", beyond.String())
	inside(t, l.A, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })

	cleartext := func() bool {
		cable := watchCable(t)
		l.comes(t, c, behind, l.B, beyond, 100*time.Millisecond)
		_, packets := cable.stop(t)
		return showsIn(packets, append(behind.AsSlice(), beyond.AsSlice()...))
	}
	for _, software := range []bool{true, false} {
		p := lab.Pair{Tunnel: true, Software: software, SPI: 0x3000}
		for i, h := range l.Hosts() {
			sas := p.SAs()
			out, in := sas[i], sas[1-i]
			near, far := "10.1.0.0/16", "10.2.0.0/16"
			if i == 1 {
				near, far = far, near
			}
			script := l.States(h, p)
			for _, x := range []struct {
				src, dst, dir string
				sa            lab.SA
			}{{near, far, "out", out}, {far, near, "in", in}, {far, near, "fwd", in}} {
				script += fmt.Sprintf("ip xfrm policy add src %s dst %s dir %s tmpl src %s dst %s proto esp reqid %#x mode tunnel\n", x.src, x.dst, x.dir, x.sa.Src, x.sa.Dst, x.sa.Reqid)
			}
			l.apply(t, h, script)
		}
		l.guarded(t, p, l.A)
		if !c.Ping(beyond, 2) || !l.comes(t, c, behind, l.B, beyond, untilThere) || !l.comes(t, l.B, beyond, c, behind, untilThere) {
			t.Error("nothing passes")
		}
		if counters := guardCounters(t, l.A); counters != (guard.Counters{}) || cleartext() {
			t.Errorf("with SAs: the guard dropped %+v, or something was in clear", counters)
		}
		l.flush(t)
		if cleartext() || guardCounters(t, l.A).Out == 0 {
			t.Error("without SAs something left in clear, or nothing was tried")
		}
		if l.comes(t, l.B, beyond, c, behind, 50*time.Millisecond) || guardCounters(t, l.A).In == 0 {
			t.Error("without SAs something came in in clear, or nothing was tried")
		}
		inside(t, l.A, guard.ReleaseHost)
		if !cleartext() {
			t.Error("without the guard nothing leaves in clear: the test proves nothing")
		}
	}
}
