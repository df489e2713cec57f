// Package changes has two hosts with userspace devices carry out changes of tunnels, without a
// coordinator's connection between them: what deploy/host does, with real SAs and real probes.
package changes

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"espalier/deploy/host"
	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/test/lab"
	"espalier/tunnel"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// part is a selector that one tunnel protects, as host A sends it.
type part struct {
	name             string
	src, dst         netip.Prefix
	protocol         uint8
	srcPort, dstPort ipsec.PortMatch
	tunnelMode       bool
	unprobed         bool
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

var parts = []part{
	{name: "icmp", src: single(lab.A4), dst: single(lab.B4), protocol: 1},
	{name: "udp", src: single(lab.A4), dst: single(lab.B4), protocol: 17, dstPort: ipsec.Port(4789)},
	{name: "tcp", src: single(lab.A4), dst: single(lab.B4), protocol: 6, dstPort: ipsec.Port(5432)},
	{name: "ipv6", src: single(lab.A6), dst: single(lab.B6)},
	{name: "subnets", src: netip.MustParsePrefix("10.1.0.0/16"), dst: netip.MustParsePrefix("10.2.0.0/16"), tunnelMode: true},
	{name: "sctp", src: single(lab.A4), dst: single(lab.B4), protocol: 132, unprobed: true},
}

// side is a host's side of a part: SAs by which it sends and receives, and its policies.
func side(t *testing.T, h *lab.Host, i, generation int, keys [2]ipsec.Key) (end steps.PairEnd, out, in []byte) {
	p := parts[i]
	reqid := uint32(100 + i)
	a, b := lab.A4, lab.B4
	if p.src.Addr().Is6() {
		a, b = lab.A6, lab.B6
	}
	mode := ipsec.Transport
	if p.tunnelMode {
		mode = ipsec.Tunnel
	}
	sa := func(src, dst netip.Addr, n int) tunnel.SA {
		return tunnel.SA{SA: ipsec.SA{Src: src, Dst: dst, SPI: ipsec.SPI(generation<<16 + i<<4 + n), Mode: mode, RequestID: reqid, Key: keys[n], ICVBits: 128, Window: 64}}
	}
	ab, ba := sa(a, b, 0), sa(b, a, 1)
	sel := ipsec.Selector{Src: p.src, Dst: p.dst, Protocol: p.protocol, SrcPort: p.srcPort, DstPort: p.dstPort}
	back := ipsec.Selector{Src: p.dst, Dst: p.src, Protocol: p.protocol, SrcPort: p.dstPort, DstPort: p.srcPort}
	sending, receiving := ab, ba
	if h.Name == "B" {
		sending, receiving, sel, back = ba, ab, back, sel
	}
	sending.Direction, sending.Window, receiving.Direction = ipsec.Outbound, 0, ipsec.Inbound
	end = steps.PairEnd{Tunnel: p.name, Action: tunnel.Create, Engine: "unix:" + h.Socket, Device: h.Device, Local: sending.Src, Remote: sending.Dst,
		Outbound: []tunnel.SAID{{SAID: sending.ID(), Src: sending.Src}}, Inbound: []tunnel.SAID{{SAID: receiving.ID(), Src: receiving.Src}}}
	for _, dir := range []ipsec.Direction{ipsec.Outbound, ipsec.Inbound, ipsec.Forward} {
		policy := tunnel.Policy{Policy: ipsec.Policy{Selector: back, Direction: dir, Priority: 1000}}
		from := receiving
		if dir == ipsec.Outbound {
			policy.Selector, from = sel, sending
		}
		processing := ipsec.Processing{Mode: mode, RequestID: reqid}
		if mode == ipsec.Tunnel {
			processing.Src, processing.Dst = from.Src, from.Dst
		}
		policy.Processing = []ipsec.Processing{processing}
		payload, err := steps.EncodePolicy(&policy)
		if err != nil {
			t.Fatal(err)
		}
		end.Policies = append(end.Policies, payload)
	}
	encode := func(sa *tunnel.SA) []byte {
		b, err := steps.EncodeSA(sa)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return end, encode(&sending), encode(&receiving)
}

// TestChange carries a first apply out with selectors of all kinds, then a rotation that is not confirmed.
func TestChange(t *testing.T) {
	t.Parallel()
	lab.Root(t)
	lab.Tools(t, "ip", "ping", "ethtool", "sysctl")
	l := lab.New(t, "")
	hosts, now := map[*lab.Host]*host.Host{}, &clock{started: time.Now()}
	for _, h := range l.Hosts() {
		h.StartDevice()
		h.Must("ip", "route", "add", "10.0.0.0/8", "dev", h.Device)
		hosts[h] = host.New(host.Config{Dir: h.Dir + "/tunnels", Keys: h.Dir, Clock: now})
	}
	l.A.Must("ip", "address", "add", "10.1.0.7/32", "dev", "lo") // B's side has no address of its own

	// both has the hosts do something at once, each in its network namespace.
	both := func(do func(*lab.Host, *host.Host) error) {
		t.Helper()
		var all sync.WaitGroup
		for lh, hh := range hosts {
			all.Go(func() {
				if err := lh.Do(func() error { return do(lh, hh) }); err != nil {
					t.Errorf("%s: %v", lh.Name, err)
				}
			})
		}
		all.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	ctx := context.Background()
	change := func(kind steps.Kind, generation int, timeout time.Duration) string {
		begin := map[*lab.Host]steps.BeginQuestion{}
		in, out := map[*lab.Host][][]byte{}, map[*lab.Host][][]byte{}
		name := fmt.Sprint("change ", generation)
		for i := range parts {
			keys := [2]ipsec.Key{ipsec.RandomKey(20), ipsec.RandomKey(20)}
			for _, h := range l.Hosts() {
				end, o, n := side(t, h, i, generation, keys)
				if kind == steps.Rotate {
					former, _, _ := side(t, h, i, generation-1, keys)
					end.Action, end.Old = tunnel.Replace, append(former.Outbound, former.Inbound...)
				}
				q := begin[h]
				q.Change, q.Kind, q.Timeout, q.Origin = name, kind, timeout, "here"
				q.Pairs = append(q.Pairs, end)
				begin[h], out[h], in[h] = q, append(out[h], o), append(in[h], n)
			}
		}
		both(func(lh *lab.Host, hh *host.Host) error { _, err := hh.Begin(ctx, begin[lh]); return err })
		both(func(lh *lab.Host, hh *host.Host) error {
			_, err := hh.Inbound(ctx, steps.SAsQuestion{Change: name, SAs: in[lh]})
			return err
		})
		both(func(lh *lab.Host, hh *host.Host) error {
			a, err := hh.Outbound(ctx, steps.SAsQuestion{Change: name, SAs: out[lh]})
			if err == nil && (len(a.SAs) != len(parts) || a.SAs[0].Offload == "") {
				t.Errorf("read back: %+v", a)
			}
			return err
		})
		for _, which := range []steps.Part{steps.Accepting, steps.Sending} {
			both(func(_ *lab.Host, hh *host.Host) error {
				_, err := hh.Policies(ctx, steps.PoliciesQuestion{Change: name, Part: which})
				return err
			})
		}
		both(func(lh *lab.Host, hh *host.Host) error {
			a, err := hh.Probe(ctx, steps.ProbeQuestion{Change: name, Within: time.Minute})
			if len(a.Missing) > 0 || len(a.Seen) != len(parts) {
				t.Errorf("%s: missing %+v, seen %+v", lh.Name, a.Missing, a.Seen)
			}
			for i, s := range a.Seen {
				if (s.Packets == 0) != parts[i].unprobed || (s.Why != "") != parts[i].unprobed {
					t.Errorf("%s: %+v", lh.Name, s)
				}
			}
			return err
		})
		both(func(_ *lab.Host, hh *host.Host) error {
			_, err := hh.Policies(ctx, steps.PoliciesQuestion{Change: name, Part: steps.Required})
			return err
		})
		return name
	}
	name := change(steps.Apply, 1, 10*time.Minute)
	for _, do := range []func(*host.Host) (steps.Progress, error){
		func(h *host.Host) (steps.Progress, error) { return h.Guard(ctx, steps.Question{Change: name}) },
		func(h *host.Host) (steps.Progress, error) { return h.Confirm(ctx, steps.Question{Change: name}) },
		func(h *host.Host) (steps.Progress, error) { return h.Finish(ctx, steps.Question{Change: name}) },
	} {
		both(func(_ *lab.Host, hh *host.Host) error { _, err := do(hh); return err })
	}
	policies := func() (all [2]string) {
		for i, h := range l.Hosts() {
			all[i] = h.Xfrm("policy", "list").Stdout
		}
		return all
	}
	applied := policies()

	const timeout = 10 * time.Minute
	change(steps.Rotate, 2, timeout)
	for _, h := range l.Hosts() {
		h.Ping(map[string]netip.Addr{"A": lab.B4, "B": lab.A4}[h.Name], 1) // by the new SAs
	}
	now.ahead.Add(int64(timeout)) // it is overdue
	both(func(_ *lab.Host, hh *host.Host) error {
		_, err := hh.Tick(ctx)
		return err
	})
	both(func(_ *lab.Host, hh *host.Host) error {
		p, err := hh.State(ctx)
		if p.Stage != steps.Undone || p.Problem != "" {
			t.Errorf("%+v", p)
		}
		return err
	})
	if left := policies(); left != applied {
		t.Errorf("policies are not as they were:\n%s\nwant\n%s", left, applied)
	}
	if !l.A.Ping(lab.B4, 2) || !l.B.Ping(lab.A4, 2) || !l.A.Ping(lab.B6, 2) {
		t.Errorf("the former SAs do not carry: %v, %v", l.A.Drops(), l.B.Drops())
	}
	for _, h := range l.Hosts() {
		if code := h.Stop(); code != 0 {
			t.Errorf("the device of host %s ended with %d", h.Name, code)
		}
	}
}
