package server

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// tellingDB is a fakeDB that tells events, and takes checkpoints.
type tellingDB struct {
	*fakeDB

	mu         sync.Mutex
	tell       func(ipsec.Event) bool
	watching   []bool
	checkpoint ipsec.Checkpoint
}

func (d *tellingDB) Observe(f func(ipsec.Event) bool) (stop func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tell = f
	return func() {}
}

func (d *tellingDB) WatchProgress(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watching = append(d.watching, on)
}

func (d *tellingDB) SetCheckpoint(_ context.Context, _ ipsec.SAID, c ipsec.Checkpoint) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checkpoint = c
	return nil
}

// emit waits for the server to observe.
func (d *tellingDB) emit(t *testing.T, e ipsec.Event) bool {
	t.Helper()
	for range 1000 {
		d.mu.Lock()
		tell := d.tell
		d.mu.Unlock()
		if tell != nil {
			return tell(e)
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("nobody observes")
	return false
}

// TestEngineEvents: what the database tells of its own accord reaches the group it is for, and
// the database learns whether anybody has heard.
func TestEngineEvents(t *testing.T) {
	db := &tellingDB{fakeDB: newFakeDB()}
	path, ctx := serve(t, db, nil), testContext(t)
	sa := testSA(0x1000)
	sa.Counters = ipsec.Counters{Packets: 7, Bytes: 700, Received: 9, Bitmap: []uint32{0x1ff, 0}, Added: time.Unix(1_700_000_000, 0)}
	p := testPolicy("10.2.0.0/16")
	p.Index, p.Limits.SoftTime = 9, time.Minute
	larva := ipsec.SA{
		Src: sa.Src, Dst: sa.Dst, Mode: ipsec.Tunnel, RequestID: 7, Larval: true, AcquireID: 77,
		Selector: ipsec.Selector{Src: netip.MustParsePrefix("10.1.0.1/32"), Dst: netip.MustParsePrefix("10.2.0.1/32"), Protocol: 17, DstPort: ipsec.Port(53)},
	}
	for _, c := range []struct {
		event ipsec.Event
		group uint32
		check func(e *xfrm.Event) bool
	}{
		{ipsec.SAExpired{SA: sa}, xfrm.GroupExpire, func(e *xfrm.Event) bool {
			return e.Kind == xfrm.MsgExpire && !e.Hard && e.StateID.SPI == 0x1000 && e.State.Current.Packets == 7 && e.State.Limits.SoftAdd == 3600
		}},
		{ipsec.SAExpired{SA: sa, Hard: true}, xfrm.GroupExpire, func(e *xfrm.Event) bool { return e.Kind == xfrm.MsgExpire && e.Hard }},
		{ipsec.SAExpired{SA: larva, Hard: true}, xfrm.GroupExpire, func(e *xfrm.Event) bool { return e.Kind == xfrm.MsgExpire && e.Hard && e.State.Seq == 77 }},
		{ipsec.PolicyExpired{Policy: p, Hard: true}, xfrm.GroupExpire, func(e *xfrm.Event) bool {
			return e.Kind == xfrm.MsgPolExpire && e.Hard && e.Policy.Index == 9 && e.Policy.Limits.SoftAdd == 60 && len(e.Policy.Tmpls) == 1
		}},
		{ipsec.Acquire{SA: larva, Policy: p}, xfrm.GroupAcquire, func(e *xfrm.Event) bool {
			return e.Kind == xfrm.MsgAcquire && e.Seq == 77 && e.Sel.DstPort == ipsec.Port(53) && e.StateID.Dst == sa.Dst && e.Policy.Tmpls[0].Reqid == 7
		}},
		{ipsec.Progress{SA: sa, Cause: ipsec.ByTime}, xfrm.GroupAEvents, func(e *xfrm.Event) bool {
			return e.Kind == xfrm.MsgNewAE && e.AE.Flags == xfrm.AEByTimer && e.AE.Replay.Seq == 9 && e.AE.Current.Bytes == 700
		}},
		{ipsec.PeerMoved{SA: sa, To: netip.MustParseAddrPort("192.168.1.99:4501")}, xfrm.GroupMapping, func(e *xfrm.Event) bool {
			return e.Kind == xfrm.MsgMapping && e.NewPort == 4501 && e.NewSrc == netip.MustParseAddr("192.168.1.99")
		}},
	} {
		if db.emit(t, c.event) {
			t.Errorf("%T: heard before anybody listens", c.event)
		}
		listening, cancel := context.WithCancel(ctx)
		events := dial(t, path).Listen(listening, c.group)
		deaf := dial(t, path).Listen(listening, xfrm.GroupReport)
		if !db.emit(t, c.event) {
			t.Errorf("%T: not heard", c.event)
		}
		for e, err := range events {
			if err != nil || !c.check(&e) {
				t.Errorf("%T: %+v, %v", c.event, e, err)
			}
			break
		}
		cancel()
		for e, err := range deaf {
			if err == nil {
				t.Errorf("%T: another group got %s", c.event, e.Kind)
			}
			break
		}
		for range 1000 { // until the server has seen the listeners go
			if !db.emit(t, c.event) {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if want := []bool{true, false}; !reflect.DeepEqual(db.watching, want) {
		t.Errorf("progress was watched %v, want %v", db.watching, want)
	}
}

// TestCheckpoint: GETAE and NEWAE, with what the kernel demands of them.
func TestCheckpoint(t *testing.T) {
	db := &tellingDB{fakeDB: newFakeDB()}
	ctx, c := testContext(t), dial(t, serve(t, db, nil))
	sa := testSA(0x1000)
	sa.ESN, sa.Window = false, 32
	sa.Counters = ipsec.Counters{Received: 40, Bitmap: []uint32{1<<7 | 1<<6}, Packets: 3} // 40 and 39
	sa.Notice = &ipsec.Notice{Every: 5, After: 700 * time.Millisecond}
	if err := c.Database().AddSA(ctx, sa); err != nil {
		t.Fatal(err)
	}
	if got := db.sa(sa.ID()); !reflect.DeepEqual(got.Notice, sa.Notice) || !reflect.DeepEqual(got.Counters.Bitmap, sa.Counters.Bitmap) {
		t.Errorf("arrived as %+v %v", got.Notice, got.Counters.Bitmap)
	}
	id := xfrm.StateID{Dst: sa.Dst, Proto: unix.IPPROTO_ESP, SPI: sa.SPI}
	ae, err := c.AEvent(ctx, id, xfrm.AEReplayThresh|xfrm.AETimerThresh)
	if err != nil || ae.Replay == nil || ae.Replay.Seq != 40 || ae.Replay.Bitmap[0] != 3 || *ae.ReplayThresh != 5 || *ae.TimerThresh != 7 || ae.Reqid != 7 {
		t.Fatalf("%+v, %v", ae, err)
	}
	if s, err := c.GetState(ctx, id); err != nil || s.ReplayThresh != nil || s.TimerThresh != nil {
		t.Errorf("GETSA tells thresholds, which the kernel does not: %+v, %v", s, err)
	}
	if err := c.SetAEvent(ctx, &xfrm.AEvent{ID: id}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("nothing to set: %v", err)
	}
	if err := c.SetAEvent(ctx, &xfrm.AEvent{ID: id, Replay: ae.Replay, ESN: true, ReplayWindow: 32}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("another size of replay state: %v", err)
	}
	gone := id
	gone.SPI++
	every := uint32(9)
	if err := c.SetAEvent(ctx, &xfrm.AEvent{ID: gone, ReplayThresh: &every}); !errors.Is(err, unix.ESRCH) {
		t.Errorf("no such SA: %v", err)
	}
	ae.Replay.Seq, ae.Replay.Bitmap[0] = 41, 5 // 41 and 39
	if err := c.SetAEvent(ctx, &xfrm.AEvent{ID: id, Replay: ae.Replay, ReplayThresh: &every, Current: &xfrm.LifetimeCurrent{Packets: 12, Bytes: 1200}}); err != nil {
		t.Fatal(err)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	n, u := db.checkpoint.Numbers, db.checkpoint.Usage
	if n == nil || n.Received != 41 || n.Bitmap[0] != 1<<8|1<<6 || u == nil || u.Packets != 12 || *db.checkpoint.Every != 9 || db.checkpoint.After != nil {
		t.Errorf("%+v %+v %+v", db.checkpoint, n, u)
	}
}

// TestAllocateSPI: a larval SA reads back as the kernel's does, and is refused in its words.
func TestAllocateSPI(t *testing.T) {
	db := newFakeDB()
	ctx, c := testContext(t), dial(t, serve(t, db, nil))
	sa := testSA(0)
	want := &xfrm.State{Src: sa.Src, Dst: sa.Dst, Proto: unix.IPPROTO_ESP, Mode: xfrm.ModeTunnel, Reqid: 7, Seq: 5, Dir: xfrm.StateDirIn, Limits: xfrm.NoLimits}
	s, err := c.AllocateSPI(ctx, &xfrm.SPIRange{State: want, Min: 0x200, Max: 0x2ff})
	if err != nil || s.SPI != 0x200 || s.AEAD != nil || s.Limits.HardAdd != 30 || s.Seq != 5 || s.Dir != xfrm.StateDirIn || s.Reqid != 7 || s.ReplayWindow != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	larva, err := c.Database().LookupSA(ctx, ipsec.SAID{Dst: sa.Dst, SPI: 0x200})
	if err != nil || !larva.Larval || larva.Key.Len() != 0 || larva.Direction != ipsec.Inbound {
		t.Errorf("%+v, %v", larva, err)
	}
	if _, err := c.AllocateSPI(ctx, &xfrm.SPIRange{State: want, Min: 0x200, Max: 0x200}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no SPI free: %v", err)
	}
	if _, err := c.AllocateSPI(ctx, &xfrm.SPIRange{State: want, Min: 0x201, Max: 0x200}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an empty range: %v", err)
	}
	ah := *want
	ah.Proto = unix.IPPROTO_AH
	if _, err := c.AllocateSPI(ctx, &xfrm.SPIRange{State: &ah, Min: 0x200, Max: 0x2ff}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("AH: %v", err)
	}
}

// TestDefaults: what packets without a policy get is told, and refused to change.
func TestDefaults(t *testing.T) {
	ctx, c := testContext(t), dial(t, serve(t, newFakeDB(), nil))
	all := xfrm.Defaults{In: xfrm.DefaultAccept, Fwd: xfrm.DefaultAccept, Out: xfrm.DefaultAccept}
	if err := c.SetDefaults(ctx, xfrm.Defaults{Out: xfrm.DefaultAccept}); err != nil {
		t.Error(err)
	}
	if err := c.SetDefaults(ctx, xfrm.Defaults{Fwd: xfrm.DefaultBlock}); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("block: %v", err)
	}
	if d, err := c.Defaults(ctx); err != nil || *d != all {
		t.Errorf("%+v, %v", d, err)
	}
}
