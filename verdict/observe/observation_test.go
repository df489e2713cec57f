package observe

import (
	"context"
	"iter"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/internal/netns"
	"espalier/ipsec"
	"espalier/verdict"
	"espalier/xfrm"
)

var (
	here  = netip.MustParseAddr("10.9.0.1")
	there = netip.MustParseAddr("10.9.0.2")
)

// fakeSAD is a SAD whose SAs change between one reading and the next.
type fakeSAD struct {
	readings [][]*xfrm.State // the last stays
	policies []*xfrm.Policy
	asked    int
}

func (f *fakeSAD) States(context.Context, xfrm.StateFilter) iter.Seq2[*xfrm.State, error] {
	return func(yield func(*xfrm.State, error) bool) {
		now := f.readings[min(f.asked, len(f.readings)-1)]
		f.asked++
		for _, s := range now {
			c := *s
			aead := *s.AEAD
			aead.Key = ipsec.RandomKey(36)
			c.AEAD = &aead
			if !yield(&c, nil) {
				return
			}
		}
	}
}

func (f *fakeSAD) Policies(context.Context) iter.Seq2[*xfrm.Policy, error] {
	return func(yield func(*xfrm.Policy, error) bool) {
		for _, p := range f.policies {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func (f *fakeSAD) Drops(context.Context) ([]ipsec.DropCount, error) {
	return []ipsec.DropCount{{Reason: "XfrmInError", Packets: uint64(10 + f.asked)}}, nil
}

func out(spi ipsec.SPI, ifindex int, sent uint32) *xfrm.State {
	s := &xfrm.State{Src: here, Dst: there, Proto: 50, SPI: spi, AEAD: &xfrm.AEAD{Name: xfrm.AEADName, KeyBits: 288, ICVBits: 128},
		Current: xfrm.LifetimeCurrent{Packets: uint64(sent), AddTime: 7}, Replay: &xfrm.ReplayState{OSeq: sent}, Dir: xfrm.StateDirOut}
	if ifindex != 0 {
		s.Offload = &xfrm.Offload{Ifindex: int32(ifindex)}
	}
	return s
}

// inNamespace runs f in a network namespace with the devices p4p1 and p4p3, and a route to there by the
// latter.
func inNamespace(t *testing.T, f func(nic, other int) error) {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("needs root: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.Do(func() error {
		var links []netlink.Link
		for name, peer := range map[string]string{"p4p1": "p4p2", "p4p3": "p4p4"} {
			if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}); err != nil {
				return err
			}
		}
		for _, name := range []string{"p4p1", "p4p2", "p4p3", "p4p4"} {
			link, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(link)
			}
			if err != nil {
				return err
			}
			links = append(links, link)
		}
		address := &netlink.Addr{IPNet: &net.IPNet{IP: here.AsSlice(), Mask: net.CIDRMask(24, 32)}}
		if err := netlink.AddrAdd(links[2], address); err != nil {
			return err
		}
		return f(links[0].Attrs().Index, links[2].Attrs().Index)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Devices, routes and what has changed are found out, and no key is left.
func TestDuring(t *testing.T) {
	inNamespace(t, func(nic, other int) error {
		sad := &fakeSAD{readings: [][]*xfrm.State{
			{out(1, nic, 5), out(2, 0, 5), out(3, nic, 1)}, // read twice: the device is not known at first
			{out(1, nic, 5), out(2, 0, 5), out(3, nic, 1)},
			{out(1, nic, 9), out(2, 0, 6), out(4, nic, 0)},
		}}
		o, err := Open(sad, false)
		if err != nil {
			return err
		}
		defer o.Close()
		seen, err := o.During(t.Context(), func(context.Context) error { return nil })
		if err != nil {
			return err
		}
		e := seen.Evidence
		if len(e.SAs) != 3 || len(e.Gone) != 1 || e.Gone[0] != (verdict.Gone{Device: nic, Direction: ipsec.Outbound}) {
			t.Fatalf("%+v", e)
		}
		if a := e.SAs[0]; a.Changed || a.Before.Sequence != 5 || a.After.Sequence != 9 || a.Route != other || a.Direction != ipsec.Outbound || a.CPU != nil {
			t.Errorf("the first: %+v", a)
		}
		if b := e.SAs[1]; b.Route != 0 || b.Offload.Mode != ipsec.NoOffload {
			t.Errorf("that in software: %+v", b)
		}
		if c := e.SAs[2]; !c.Changed || c.Before != (verdict.Counts{}) {
			t.Errorf("the new one: %+v", c)
		}
		want := map[int]string{nic: "p4p1", other: "p4p3"}
		for _, d := range e.Devices {
			if d.Name != want[d.Index] || d.Counts || d.Problem != "" {
				t.Errorf("%+v", d)
			}
			if d.Kind != "veth" || d.Index == nic && (d.Driver != "veth" || d.ESP[1] != verdict.FeatureOff || !d.Up) {
				t.Errorf("%+v", d)
			}
		}
		if j := seen.Judgements; j[0].Reason != verdict.NoCounters || !strings.Contains(j[0].Why, "leave by p4p3") || j[1].Reason != verdict.NoOffload || j[2].Reason != verdict.NoPacket {
			t.Errorf("%+v", j)
		}
		if len(seen.Drops) != 1 || seen.Drops[0].Moved == 0 {
			t.Errorf("%+v", seen.Drops)
		}
		for _, s := range seen.States {
			if s.AEAD.Key.Len() != 0 && !isZero(s.AEAD.Key) {
				t.Error("a key is left")
			}
		}
		return nil
	})
}

func isZero(k ipsec.Key) bool {
	for _, b := range k.ExposeSecretBytes() {
		if b != 0 {
			return false
		}
	}
	return true
}

// An SA that was deleted and added again under the same SPI is another.
func TestReplaced(t *testing.T) {
	inNamespace(t, func(nic, _ int) error {
		again := out(1, 0, 1)
		again.Current.AddTime++
		o, err := Open(&fakeSAD{readings: [][]*xfrm.State{{out(1, 0, 500)}, {again}}}, false)
		if err != nil {
			return err
		}
		defer o.Close()
		seen, err := o.During(t.Context(), func(context.Context) error { return nil })
		if err != nil {
			return err
		}
		if sa := seen.Evidence.SAs[0]; !sa.Changed || seen.Judgements[0].Verdict != verdict.Software {
			t.Errorf("%+v, %+v", sa, seen.Judgements)
		}
		return nil
	})
}

// What happens meanwhile may fail, or be cut short.
func TestDuringFails(t *testing.T) {
	inNamespace(t, func(int, int) error {
		o, err := Open(&fakeSAD{readings: [][]*xfrm.State{{out(1, 0, 1)}}}, true)
		if err != nil {
			return err
		}
		defer o.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := o.During(ctx, func(ctx context.Context) error { return sleep(ctx, time.Hour) }); err != context.DeadlineExceeded {
			t.Errorf("%v", err)
		}
		return nil
	})
}

// tellingSAD also tells of SAs that go.
type tellingSAD struct {
	fakeSAD
	events []xfrm.Event
	told   chan struct{} // closed when all events were told
}

func (f *tellingSAD) Listen(ctx context.Context, _ ...uint32) iter.Seq2[xfrm.Event, error] {
	return func(yield func(xfrm.Event, error) bool) {
		for _, e := range f.events {
			if !yield(e, nil) {
				return
			}
		}
		close(f.told)
		<-ctx.Done()
		yield(xfrm.Event{}, ctx.Err())
	}
}

// Of SAs that were told of when they went it is known what they had, whether they had been there at the
// beginning or not; of others not.
func TestDepartures(t *testing.T) {
	inNamespace(t, func(nic, _ int) error {
		sad := &tellingSAD{
			fakeSAD: fakeSAD{readings: [][]*xfrm.State{
				{out(1, nic, 5), out(2, nic, 5), out(3, nic, 5), out(6, nic, 30)},
				{out(1, nic, 5), out(2, nic, 5), out(3, nic, 5), out(6, nic, 30)},
				{out(1, nic, 9), out(6, nic, 40)},
			}},
			events: []xfrm.Event{{Kind: xfrm.MsgDelSA, State: out(6, nic, 35)}, {Kind: xfrm.MsgDelSA, State: out(2, nic, 12)}, {Kind: xfrm.MsgDelSA, State: out(4, nic, 30)}, {Kind: xfrm.MsgNewSA, State: out(5, nic, 1)}},
			told:   make(chan struct{}),
		}
		o, err := Open(sad, false)
		if err != nil {
			return err
		}
		defer o.Close()
		seen, err := o.During(t.Context(), func(context.Context) error { <-sad.told; return nil })
		if err != nil {
			return err
		}
		got := map[uint64]int{}
		for _, g := range seen.Evidence.Gone {
			n := uint64(0)
			if g.Packets != nil {
				n = *g.Packets
			}
			got[n]++
		}
		if sas := seen.Evidence.SAs; sas[0].Changed || !sas[1].Changed {
			t.Errorf("the one by the same name in the same second: %+v", sas)
		}
		if len(seen.Evidence.Gone) != 4 || got[7] != 1 || got[30] != 1 || got[0] != 1 || got[5] != 1 {
			t.Errorf("%v: %+v", got, seen.Evidence.Gone)
		}
		return nil
	})
}

// BenchmarkDuring is what ten thousand SAs and as many policies cost beyond the interval and the kernel's own
// part of it.
func BenchmarkDuring(b *testing.B) {
	debug.SetGCPercent(400) // as `espalier status` once
	var states []*xfrm.State
	sad := &fakeSAD{}
	for i := range 10_000 {
		s := out(ipsec.SPI(1000+i), 0, 5)
		s.Dst = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		s.Reqid = uint32(i)
		states = append(states, s)
		sel := ipsec.Selector{Src: netip.PrefixFrom(s.Src, 32), Dst: netip.PrefixFrom(s.Dst, 32)}
		sad.policies = append(sad.policies, &xfrm.Policy{Sel: xfrm.Selector{Selector: sel}, Dir: xfrm.PolicyOut, Tmpls: []xfrm.Tmpl{{Src: s.Src, Dst: s.Dst, Proto: 50, Reqid: s.Reqid}}})
	}
	sad.readings = [][]*xfrm.State{states}
	o, err := Open(sad, false)
	if err != nil {
		b.Fatal(err)
	}
	defer o.Close()
	for b.Loop() {
		if _, err := o.During(b.Context(), func(context.Context) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
