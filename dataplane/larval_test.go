package dataplane

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ipsec"
)

func spiRequest(low, high ipsec.SPI) ipsec.SPIRequest {
	return ipsec.SPIRequest{Src: hostA, Dst: hostB, RequestID: 7, Min: low, Max: high}
}

func TestAllocateSPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		seen := make(map[ipsec.SPI]bool)
		for range 16 {
			sa, err := d.AllocateSPI(t.Context(), spiRequest(0x500, 0x50f))
			if err != nil || !sa.Larval || seen[sa.SPI] || sa.SPI < 0x500 || sa.SPI > 0x50f || sa.Limits.HardTime != larvalLimits().HardTime {
				t.Fatalf("%+v, %v", sa, err)
			}
			seen[sa.SPI] = true
		}
		if _, err := d.AllocateSPI(t.Context(), spiRequest(0x500, 0x50f)); !errors.Is(err, ipsec.ErrNotExist) {
			t.Errorf("from a full range: %v", err)
		}
		elsewhere := spiRequest(0x500, 0x500)
		elsewhere.Src, elsewhere.Dst = hostB, hostA
		if _, err := d.AllocateSPI(t.Context(), elsewhere); err != nil {
			t.Errorf("for another destination: %v", err)
		}
		if _, err := d.AllocateSPI(t.Context(), spiRequest(0x501, 0x500)); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("from an empty range: %v", err)
		}
		if n := len(d.sad.list()); n != 17 {
			t.Errorf("%d SAs listed, want 17", n)
		}
		if err := d.DeleteSA(t.Context(), ipsec.SAID{Dst: hostB, SPI: 0x505}); err != nil {
			t.Error(err)
		}
		if sa, err := d.AllocateSPI(t.Context(), spiRequest(0x500, 0x50f)); err != nil || sa.SPI != 0x505 {
			t.Errorf("the only free one: %+v, %v", sa.SPI, err)
		}
		l.want(t, "so far")
		time.Sleep(larvalLimits().HardTime + time.Second)
		if got := l.take(); len(got) != 17 || got[0] != "hard" {
			t.Errorf("they expired with %q", got)
		}
		if n := len(d.sad.list()); n != 0 {
			t.Errorf("%d of them are left", n)
		}
	})
}

// A larval SA is completed by an update, never by an addition.
func TestLarvalSAIsCompletedByUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		r := spiRequest(0x500, 0x500)
		r.Direction = ipsec.Inbound
		if _, err := d.AllocateSPI(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		sa := func(dir ipsec.Direction, key int) ipsec.SA {
			sa := testSA(0x500)
			sa.Direction, sa.Key = dir, ipsec.NewKey(make([]byte, key))
			return sa
		}
		if err := d.AddSA(t.Context(), sa(ipsec.Inbound, 20)); !errors.Is(err, ipsec.ErrExist) {
			t.Errorf("added: %v", err)
		}
		if err := d.UpdateSA(t.Context(), sa(ipsec.Outbound, 20)); !errors.Is(err, ipsec.ErrNotExist) {
			t.Errorf("of the other direction: %v", err)
		}
		if err := d.UpdateSA(t.Context(), sa(ipsec.Inbound, 19)); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("with a bad key: %v", err)
		}
		if a := d.sad.inbound(ipsec.SAID{Dst: hostB, SPI: 0x500}); a == nil || !a.sa.Larval {
			t.Fatal("the larval SA did not survive a failed update")
		}
		if err := d.UpdateSA(t.Context(), sa(ipsec.Inbound, 20)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		l.want(t, "the larval SA's end must not come")
		if a := d.sad.inbound(ipsec.SAID{Dst: hostB, SPI: 0x500}); a == nil || a.in == nil || len(d.sad.list()) != 1 {
			t.Error("no live SA in its place")
		}
	})
}

// A packet without an SA asks for one, once, as long as nobody has answered.
func TestAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		p := ipsec.Policy{Direction: ipsec.Outbound, Processing: []ipsec.Processing{{RequestID: 7, Mode: ipsec.Tunnel, Dst: hostB}}}
		d.spd.put(d.spd.prepare(&p, nil), nil)
		f := ipsec.Flow{Src: hostA, Dst: hostB, Protocol: 17, SrcPort: 1000, DstPort: 53}
		w := want{d.spd.lookup(ipsec.Outbound, &f, 1), f, 0}
		ask := func() { d.keeper.want(w); synctest.Wait() }

		l.deaf = true
		ask()
		l.want(t, "with nobody to hear", "acquire")
		if n := len(d.sad.list()); n != 0 {
			t.Errorf("nobody has heard, but %d larval SAs wait", n)
		}

		l.deaf = false
		for range 3 {
			ask()
		}
		l.want(t, "three packets", "acquire")
		w.flow.DstPort = 54 // as in Linux: any packet that wants the same SA
		ask()
		l.want(t, "another flow")
		larvae := d.sad.list()
		if len(larvae) != 1 {
			t.Fatalf("%d larval SAs", len(larvae))
		}
		sa := larvae[0].read()
		if sa.SPI != 0 || sa.AcquireID != 2 || sa.Dst != hostB || sa.Mode != ipsec.Tunnel || sa.Selector.DstPort != ipsec.Port(53) || sa.Selector.Src.Addr() != hostA {
			t.Errorf("%+v", sa)
		}

		// Unanswered it goes, and the next packet asks again.
		time.Sleep(larvalLimits().HardTime + time.Second)
		l.want(t, "unanswered", "hard")
		ask()
		l.want(t, "the next packet", "acquire")

		// The SA that answers takes its place.
		answer := testSA(0x900)
		answer.Direction, answer.Mode, answer.Window, answer.AcquireID = ipsec.Outbound, ipsec.Tunnel, 0, 3
		if err := d.AddSA(t.Context(), answer); err != nil {
			t.Fatal(err)
		}
		if all := d.sad.list(); len(all) != 1 || all[0].sa.SPI != 0x900 {
			t.Errorf("%d SAs after the answer", len(all))
		}
		ask()
		time.Sleep(time.Hour)
		l.want(t, "after the answer")
	})
}

// An SPI allocated for an acquire is given to the larval SA that stands for it.
func TestAllocateForAcquire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		p := ipsec.Policy{Direction: ipsec.Outbound, Processing: []ipsec.Processing{{RequestID: 7}}}
		d.spd.put(d.spd.prepare(&p, nil), nil)
		f := ipsec.Flow{Src: hostA, Dst: hostB, Protocol: 6, DstPort: 80}
		w := want{d.spd.lookup(ipsec.Outbound, &f, 1), f, 0}
		d.keeper.want(w)
		l.want(t, "a packet", "acquire")
		time.Sleep(20 * time.Second)
		r := spiRequest(0x500, 0x5ff)
		r.AcquireID = 1
		sa, err := d.AllocateSPI(t.Context(), r)
		if err != nil || sa.AcquireID != 1 || sa.Selector.DstPort != ipsec.Port(80) || len(d.sad.list()) != 1 {
			t.Fatalf("%+v, %v", sa, err)
		}
		again, err := d.AllocateSPI(t.Context(), r)
		if err != nil || again.SPI != sa.SPI {
			t.Errorf("a second time: %v, %v; want %v", again.SPI, err, sa.SPI)
		}
		d.keeper.want(w)
		l.want(t, "a packet meanwhile")
		time.Sleep(11 * time.Second)
		l.want(t, "30 s after the acquire", "hard")
	})
}
