package dataplane

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ipsec"
)

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		a := addTestSA(t, d, func(sa *ipsec.SA) { sa.Notice = &ipsec.Notice{Every: 3, After: 10 * time.Second} })
		send := func(n int) {
			for range n {
				d.packet(a, 10)
				synctest.Wait()
			}
		}
		send(10)
		l.want(t, "nobody watches")
		if at := a.progress.sentAt.Load(); at != math.MaxUint64 {
			t.Errorf("the packet path looks out for %d", at)
		}
		d.WatchProgress(true)
		l.want(t, "10 packets since the addition", "by numbers")
		send(2)
		l.want(t, "2 packets")
		send(1)
		l.want(t, "3 packets", "by numbers")
		send(1)
		time.Sleep(11 * time.Second)
		l.want(t, "1 packet and 11 s", "by time")
		time.Sleep(time.Hour)
		l.want(t, "an idle hour")
		send(1)
		l.want(t, "the first packet after it", "by time")
		d.WatchProgress(false)
		send(5)
		time.Sleep(time.Minute)
		l.want(t, "nobody watches any more")
	})
}

// An SA that was idle for long enough tells of its first packet.
func TestProgressAfterAddition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		d.WatchProgress(true)
		a := addTestSA(t, d, func(sa *ipsec.SA) { sa.Notice = &ipsec.Notice{Every: 100, After: 10 * time.Second} })
		time.Sleep(11 * time.Second)
		l.want(t, "idle since the addition")
		d.packet(a, 10)
		l.want(t, "the first packet", "by time")
		d.packet(a, 10)
		l.want(t, "the second")
	})
}

// Counters of another host are taken over; numbers never go back, for they are nonces.
func TestCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		a := addTestSA(t, d, func(sa *ipsec.SA) { sa.Limits.HardPackets = 100 })
		set := func(c ipsec.Checkpoint) error { return d.SetCheckpoint(t.Context(), a.sa.ID(), c) }
		every := uint32(50)
		if err := set(ipsec.Checkpoint{Numbers: &ipsec.Numbers{Sent: 1000}, Usage: &ipsec.Usage{Packets: 99, Bytes: 990}, Every: &every}); err != nil {
			t.Fatal(err)
		}
		l.want(t, "after setting", "by setting")
		sa, err := d.LookupSA(t.Context(), a.sa.ID())
		if c := sa.Counters; err != nil || c.Sent != 1000 || c.Packets != 99 || c.Bytes != 990 || sa.Notice.Every != 50 || sa.Notice.After != defaultNotice.After {
			t.Errorf("%+v %+v, %v", c, sa.Notice, err)
		}
		if err := set(ipsec.Checkpoint{Numbers: &ipsec.Numbers{Sent: 999}}); !errors.Is(err, ipsec.ErrInvalid) || a.out.Sent() != 1000 {
			t.Errorf("back: %v, %d sent", err, a.out.Sent())
		}
		if !d.packet(a, 1) || d.packet(a, 1) {
			t.Error("the limit does not go by what was set")
		}
		if err := d.SetCheckpoint(t.Context(), ipsec.SAID{Dst: hostA, SPI: 1}, ipsec.Checkpoint{}); !errors.Is(err, ipsec.ErrNotExist) {
			t.Error(err)
		}
	})
}

func TestCheckpointOfTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := keptDevice(t)
		sa := testSA(0x300)
		sa.Direction = ipsec.Inbound
		if err := d.AddSA(t.Context(), sa); err != nil {
			t.Fatal(err)
		}
		n := &ipsec.Numbers{Received: 40, Bitmap: []uint32{0xff, 0x80}}
		if err := d.SetCheckpoint(t.Context(), sa.ID(), ipsec.Checkpoint{Numbers: n}); err != nil {
			t.Fatal(err)
		}
		got, err := d.LookupSA(t.Context(), sa.ID())
		if err != nil || got.Counters.Received != 40 || got.Counters.Bitmap[0] != 0xff || got.Counters.Bitmap[1] != 0x80 {
			t.Errorf("%+v, %v", got.Counters, err)
		}
		n = &ipsec.Numbers{Received: 50, Bitmap: []uint32{1}}
		if err := d.SetCheckpoint(t.Context(), sa.ID(), ipsec.Checkpoint{Numbers: n}); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("a window that is too short: %v", err)
		}
	})
}
