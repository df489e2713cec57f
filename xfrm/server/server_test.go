package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// serve runs a server for the test and returns its socket. When the test ends it is
// stopped, and must have left neither goroutines nor its socket behind.
func serve(t *testing.T, db ipsec.Database, change func(*Server)) string {
	t.Helper()
	before := runtime.NumGoroutine()
	path := filepath.Join(t.TempDir(), "run", "dev.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := New(db, nil)
	s.PeerUID = uint32(os.Geteuid())
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("Serve does not end")
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
		noLeak(t, before)
	})
	return path
}

// noLeak waits for the number of goroutines to come back to what it was.
func noLeak(t *testing.T, before int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func dial(t *testing.T, path string) *client.Client {
	t.Helper()
	c, err := client.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func testSA(spi ipsec.SPI) ipsec.SA {
	return ipsec.SA{
		Src: netip.MustParseAddr("192.168.1.64"), Dst: netip.MustParseAddr("192.168.1.65"), SPI: spi,
		Direction: ipsec.Inbound, RequestID: 7, Key: ipsec.RandomKey(36), ICVBits: 128, ESN: true, Window: 64,
		Limits: ipsec.Limits{SoftTime: time.Hour, HardBytes: 1 << 40},
	}
}

func testPolicy(dst string) ipsec.Policy {
	return ipsec.Policy{
		Selector:  ipsec.Selector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix(dst)},
		Direction: ipsec.Outbound, Action: ipsec.Protect, Priority: 5,
		Processing: []ipsec.Processing{{
			Src: netip.MustParseAddr("192.168.1.64"), Dst: netip.MustParseAddr("192.168.1.65"), Mode: ipsec.Tunnel, RequestID: 7,
		}},
	}
}

// withoutKey is what an SA must read back as.
func withoutKey(sa ipsec.SA) ipsec.SA {
	sa.Key = ipsec.Key{}
	sa.Counters.Added = time.Unix(1_700_000_000, 0)
	return sa
}

// TestDatabase drives the whole ipsec.Database through client, socket and server.
func TestDatabase(t *testing.T) {
	fake := newFakeDB()
	ctx, db := testContext(t), dial(t, serve(t, fake, nil)).Database()
	sa := testSA(0x1000)
	if err := db.AddSA(ctx, sa); err != nil {
		t.Fatal(err)
	}
	if got := fake.sa(sa.ID()).Key; string(got.ExposeSecretBytes()) != string(sa.Key.ExposeSecretBytes()) {
		t.Error("the key did not arrive")
	}
	if err := db.AddSA(ctx, sa); !errors.Is(err, ipsec.ErrExist) || !errors.Is(err, unix.EEXIST) {
		t.Errorf("second add: %v", err)
	} else if want := "add SA 0x00001000 192.168.1.64→192.168.1.65: already exists"; err.Error() != want {
		t.Errorf("second add: %q, want %q", err, want)
	}
	got, err := db.LookupSA(ctx, sa.ID())
	if err != nil || !reflect.DeepEqual(got, withoutKey(sa)) {
		t.Errorf("read back\n %+v, %v; want\n %+v", got, err, withoutKey(sa))
	}
	// What was read back, key withheld, is good for an update.
	got.Limits.HardTime = 2 * time.Hour
	if err := db.UpdateSA(ctx, got); err != nil {
		t.Fatal(err)
	}
	if fake.sa(sa.ID()).Limits.HardTime != 2*time.Hour || fake.sa(sa.ID()).Key.Len() != 36 {
		t.Error("the update did not arrive, or took the key")
	}
	for _, id := range []ipsec.SAID{{Dst: sa.Dst, SPI: 0x9999}, {Dst: sa.Src, SPI: sa.SPI}} {
		if _, err := db.LookupSA(ctx, id); !errors.Is(err, ipsec.ErrNotExist) || !errors.Is(err, unix.ESRCH) {
			t.Errorf("look-up of %s: %v", id, err)
		}
		if err := db.DeleteSA(ctx, id); !errors.Is(err, ipsec.ErrNotExist) {
			t.Errorf("delete of %s: %v", id, err)
		}
	}
	if err := db.DeleteSA(ctx, sa.ID()); err != nil || fake.countSAs() != 0 {
		t.Errorf("delete: %v, %d left", err, fake.countSAs())
	}

	p := testPolicy("10.2.0.0/16")
	if err := db.AddPolicy(ctx, p); err != nil {
		t.Fatal(err)
	}
	if err := db.AddPolicy(ctx, p); !errors.Is(err, ipsec.ErrExist) {
		t.Errorf("second add: %v", err)
	}
	p.Priority = 9
	if err := db.UpdatePolicy(ctx, p); err != nil {
		t.Fatal(err)
	}
	back, err := db.LookupPolicy(ctx, p.ID())
	p.Index = back.Index
	if err != nil || back.Index == 0 || !reflect.DeepEqual(back, p) {
		t.Errorf("read back\n %+v, %v; want\n %+v", back, err, p)
	}
	if _, err := db.LookupPolicy(ctx, ipsec.PolicyID{Direction: ipsec.Outbound, Index: back.Index}); err != nil {
		t.Errorf("look-up by index: %v", err)
	}
	other := testPolicy("10.3.0.0/16")
	if _, err := db.LookupPolicy(ctx, other.ID()); !errors.Is(err, ipsec.ErrNotExist) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("look-up of none: %v", err)
	}
	if err := db.DeletePolicy(ctx, p.ID()); err != nil || fake.countPolicies() != 0 {
		t.Errorf("delete: %v, %d left", err, fake.countPolicies())
	}
}

// TestDump: more than fits one datagram, filters, breaking off, flushes, counts.
func TestDump(t *testing.T) {
	const n = 300
	fake := newFakeDB()
	ctx, c := testContext(t), dial(t, serve(t, fake, nil))
	db := c.Database()
	want := make(map[ipsec.SPI]ipsec.SA)
	for i := range n {
		sa := testSA(ipsec.SPI(0x1000 + i))
		if i%2 == 1 {
			sa.Dst = netip.MustParseAddr("192.168.2.65")
		}
		sa.RequestID = uint32(i % 3)
		if err := db.AddSA(ctx, sa); err != nil {
			t.Fatal(err)
		}
		p := testPolicy(fmt.Sprintf("10.2.%d.%d/32", i/256, i%256))
		if err := db.AddPolicy(ctx, p); err != nil {
			t.Fatal(err)
		}
		want[sa.SPI] = withoutKey(sa)
	}
	for sa, err := range db.SAs(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(sa, want[sa.SPI]) {
			t.Fatalf("listed %+v, want %+v", sa, want[sa.SPI])
		}
		delete(want, sa.SPI)
	}
	if len(want) != 0 {
		t.Errorf("%d SAs not listed", len(want))
	}
	count := func(f xfrm.StateFilter) (n int) {
		for s, err := range c.States(ctx, f) {
			if err != nil {
				t.Fatal(err)
			}
			if s.AEAD.Key.Len() != 0 || s.AEAD.KeyBits != 288 {
				t.Fatal("a key came back")
			}
			n++
		}
		return n
	}
	for _, f := range []struct {
		filter xfrm.StateFilter
		want   int
	}{
		{xfrm.StateFilter{}, n},
		{xfrm.StateFilter{Proto: unix.IPPROTO_AH}, 0},
		{xfrm.StateFilter{Dst: netip.MustParsePrefix("192.168.2.0/24")}, n / 2},
		{xfrm.StateFilter{Src: netip.MustParsePrefix("192.168.1.64/32"), Reqid: 1}, n / 3},
		{xfrm.StateFilter{SPI: 0x1005}, 1},
		{xfrm.StateFilter{Family: unix.AF_INET6}, 0},
	} {
		if got := count(f.filter); got != f.want {
			t.Errorf("%+v selects %d, want %d", f.filter, got, f.want)
		}
	}
	// Broken off after one, with a request in the middle of the dump.
	for sa, err := range db.SAs(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if err := db.DeleteSA(ctx, sa.ID()); err != nil {
			t.Fatal(err)
		}
		break
	}
	if info, err := c.SADInfo(ctx); err != nil || info.Count != n-1 {
		t.Errorf("SADInfo: %+v, %v", info, err)
	}
	if info, err := c.SPDInfo(ctx); err != nil || info.Out != n || info.In != 0 {
		t.Errorf("SPDInfo: %+v, %v", info, err)
	}
	policies := 0
	for _, err := range db.Policies(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		policies++
	}
	if policies != n {
		t.Errorf("%d policies listed", policies)
	}
	if err := c.FlushStates(ctx, unix.IPPROTO_AH); err != nil || fake.countSAs() != n-1 {
		t.Errorf("flush of AH: %v, %d left", err, fake.countSAs())
	}
	if err := db.FlushSAs(ctx); err != nil || fake.countSAs() != 0 {
		t.Errorf("flush: %v, %d left", err, fake.countSAs())
	}
	if err := db.FlushPolicies(ctx); err != nil || fake.countPolicies() != 0 {
		t.Errorf("flush: %v, %d left", err, fake.countPolicies())
	}
}

// TestErrors: what the database says arrives, with the errno the kernel would use.
func TestErrors(t *testing.T) {
	fake := newFakeDB()
	ctx, c := testContext(t), dial(t, serve(t, fake, nil))
	sa := testSA(0x1000)
	for _, f := range []struct {
		err   error
		errno error
	}{
		{fmt.Errorf("no room: %w", ipsec.ErrUnsupported), unix.EOPNOTSUPP},
		{fmt.Errorf("odd: %w", ipsec.ErrInvalid), unix.EINVAL},
		{errors.New("the disk is on fire"), unix.EIO},
	} {
		fake.setFail(f.err)
		err := c.Database().AddSA(ctx, sa)
		if !errors.Is(err, f.errno) || !strings.HasSuffix(err.Error(), ": "+f.err.Error()) {
			t.Errorf("%v arrives as %v", f.err, err)
		}
		for _, err = range c.Database().SAs(ctx) {
		}
		if !errors.Is(err, f.errno) || !strings.Contains(err.Error(), f.err.Error()) {
			t.Errorf("%v ends a dump as %v", f.err, err)
		}
	}
	// Operation and object stand there once: the database's make way for the client's.
	fake.setFail(&ipsec.OpError{Op: "get SA", Object: "0x9", Err: fmt.Errorf("no room: %w", ipsec.ErrUnsupported)})
	policy := testPolicy("10.2.0.0/16")
	for want, err := range map[string]error{
		"get SA 0x00000009→192.168.1.65: no room: not supported":            func() error { _, err := c.Database().LookupSA(ctx, ipsec.SAID{Dst: sa.Dst, SPI: 9}); return err }(),
		"delete SA 0x00000009→192.168.1.65: no room: not supported":         c.Database().DeleteSA(ctx, ipsec.SAID{Dst: sa.Dst, SPI: 9}),
		"add policy 10.1.0.0/16→10.2.0.0/16 out: no room: not supported":    c.Database().AddPolicy(ctx, policy),
		"delete policy 10.1.0.0/16→10.2.0.0/16 out: no room: not supported": c.Database().DeletePolicy(ctx, policy.ID()),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
	fake.setFail(nil)

	state, err := xfrm.StateFromSA(&sa)
	if err != nil {
		t.Fatal(err)
	}
	marked := *state
	marked.Mark = &xfrm.Mark{Value: 1, Mask: 1}
	if err := c.AddState(ctx, &marked); !errors.Is(err, ipsec.ErrUnsupported) || !strings.Contains(err.Error(), "mark") {
		t.Errorf("a state with a mark: %v", err)
	}
	zero := *state
	zero.AEAD = &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.NewKey(make([]byte, 36)), ICVBits: 128}
	if err := c.AddState(ctx, &zero); !errors.Is(err, ipsec.ErrInvalid) || !strings.Contains(err.Error(), "all zero") {
		t.Errorf("a key of zeros: %v", err)
	}
	none := *state
	none.AEAD = &xfrm.AEAD{Name: xfrm.AEADName, KeyBits: 288, ICVBits: 128}
	if err := c.AddState(ctx, &none); !errors.Is(err, ipsec.ErrInvalid) {
		t.Errorf("a withheld key: %v", err)
	}
	if fake.countSAs() != 0 {
		t.Error("something was added")
	}
}

// raw is a connection that sends and receives datagrams as they are.
func raw(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// answers reads datagrams until n messages have come.
func answers(t *testing.T, conn *net.UnixConn, n int) (msgs []netlink.Message) {
	t.Helper()
	for len(msgs) < n {
		buf := make([]byte, 1<<16)
		k, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("after %d of %d answers: %v", len(msgs), n, err)
		}
		for m, err := range xfrm.Messages(buf[:k]) {
			if err != nil {
				t.Fatal(err)
			}
			msgs = append(msgs, m)
		}
	}
	return msgs
}

// errnoIn is the error an NLMSG_ERROR carries.
func errnoIn(t *testing.T, m netlink.Message) syscall.Errno {
	t.Helper()
	if m.Header.Type != netlink.Error || len(m.Data) < 20 {
		t.Fatalf("not an NLMSG_ERROR: %+v", m)
	}
	return syscall.Errno(-int32(uint32(m.Data[0]) | uint32(m.Data[1])<<8 | uint32(m.Data[2])<<16 | uint32(m.Data[3])<<24))
}

func newSA(t *testing.T, seq uint32, spi ipsec.SPI, flags netlink.HeaderFlags) netlink.Message {
	t.Helper()
	sa := testSA(spi)
	state, err := xfrm.StateFromSA(&sa)
	if err != nil {
		t.Fatal(err)
	}
	data, err := xfrm.EncodeState(state)
	if err != nil {
		t.Fatal(err)
	}
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(xfrm.MsgNewSA), Flags: netlink.Request | flags, Sequence: seq}, Data: data}
}

// TestManyInOneDatagram: each message has its own verdict, only the last asks for an ack.
func TestManyInOneDatagram(t *testing.T) {
	fake := newFakeDB()
	conn := raw(t, serve(t, fake, nil))
	var b []byte
	for seq, spi := range []ipsec.SPI{1, 2, 1, 3} { // the third exists
		b = xfrm.AppendMessage(b, newSA(t, uint32(seq), spi, 0))
	}
	b = xfrm.AppendMessage(b, netlink.Message{Header: netlink.Header{Type: 0x21, Flags: netlink.Request, Sequence: 4}}) // MIGRATE
	b = xfrm.AppendMessage(b, newSA(t, 5, 4, netlink.Acknowledge))
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
	got := answers(t, conn, 3)
	for i, want := range []struct {
		seq   uint32
		errno syscall.Errno
		text  string
	}{{2, unix.EEXIST, "already exists"}, {4, unix.EOPNOTSUPP, "MIGRATE is not supported"}, {5, 0, ""}} {
		m := got[i]
		if errno := errnoIn(t, m); m.Header.Sequence != want.seq || errno != want.errno || !strings.Contains(string(m.Data), want.text) {
			t.Errorf("answer %d: seq %d errno %d %q, want %+v", i, m.Header.Sequence, errno, m.Data, want)
		}
	}
	if fake.countSAs() != 4 {
		t.Errorf("%d SAs, want 4: the others must not suffer", fake.countSAs())
	}
}

// TestMalformed: whatever comes, the server answers with an error or nothing, and goes on.
func TestMalformed(t *testing.T) {
	fake := newFakeDB()
	conn := raw(t, serve(t, fake, nil))
	good := xfrm.AppendMessage(nil, newSA(t, 9, 1, netlink.Acknowledge))
	long := append([]byte(nil), good...)
	long[0], long[1] = 0xff, 0xff // a message longer than its datagram
	cut := append([]byte(nil), good[:60]...)
	cut[0], cut[1] = 60, 0 // a struct cut in the middle
	noop := xfrm.AppendMessage(nil, netlink.Message{Header: netlink.Header{Type: netlink.Noop, Flags: netlink.Request, Sequence: 9}, Data: []byte{1}})
	for _, c := range []struct {
		name  string
		data  []byte
		errno syscall.Errno
	}{
		{"three bytes", []byte{1, 2, 3}, unix.EINVAL},
		{"long", long, unix.EINVAL},
		{"cut", cut, unix.EINVAL},
		{"group mask of one byte", noop, unix.EINVAL},
		{"too big", make([]byte, maxRequest+4), unix.EMSGSIZE},
	} {
		if c.errno == unix.EMSGSIZE {
			rc, err := conn.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			rc.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<20) })
			copy(c.data, good)
		}
		if _, err := conn.Write(c.data); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if errno := errnoIn(t, answers(t, conn, 1)[0]); errno != c.errno {
			t.Errorf("%s: %v, want %v", c.name, errno, c.errno)
		}
	}
	// Not a request: acknowledged if asked, and nothing is done.
	idle := newSA(t, 10, 1, netlink.Acknowledge)
	idle.Header.Flags = netlink.Acknowledge
	conn.Write(xfrm.AppendMessage(nil, idle))
	if errno := errnoIn(t, answers(t, conn, 1)[0]); errno != 0 || fake.countSAs() != 0 {
		t.Errorf("not a request: %v, %d SAs", errno, fake.countSAs())
	}
	conn.Write(good)
	if errno := errnoIn(t, answers(t, conn, 1)[0]); errno != 0 || fake.countSAs() != 1 {
		t.Errorf("a good one after all that: %v, %d SAs", errno, fake.countSAs())
	}
}

// TestEvents: what the kernel would tell the groups, without keys.
func TestEvents(t *testing.T) {
	ctx, c := testContext(t), dial(t, serve(t, newFakeDB(), nil))
	db := c.Database()
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	both := c.Listen(lctx, xfrm.GroupSA, xfrm.GroupPolicy)
	onlyPolicy := c.Listen(lctx, xfrm.GroupPolicy)
	sa, p := testSA(0x1000), testPolicy("10.2.0.0/16")
	steps := []func() error{
		func() error { return db.FlushSAs(ctx) }, // empty: no event
		func() error { return db.AddSA(ctx, sa) },
		func() error { return db.UpdateSA(ctx, sa) },
		func() error { return db.AddPolicy(ctx, p) },
		func() error { return db.UpdatePolicy(ctx, p) },
		func() error { return db.DeletePolicy(ctx, p.ID()) },
		func() error { return db.DeleteSA(ctx, sa.ID()) },
		func() error { return db.AddSA(ctx, sa) },
		func() error { return db.FlushSAs(ctx) },
		func() error { return db.AddPolicy(ctx, p) },
		func() error { return db.FlushPolicies(ctx) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	want := []xfrm.MsgType{
		xfrm.MsgNewSA, xfrm.MsgUpdSA, xfrm.MsgNewPolicy, xfrm.MsgUpdPolicy, xfrm.MsgDelPolicy, xfrm.MsgDelSA,
		xfrm.MsgNewSA, xfrm.MsgFlushSA, xfrm.MsgNewPolicy, xfrm.MsgFlushPolicy,
	}
	var got []xfrm.MsgType
	for e, err := range both {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Kind)
		if e.State != nil && (e.State.AEAD.Key.Len() != 0 || e.State.AEAD.KeyBits != 288 || e.State.SPI != sa.SPI) {
			t.Errorf("%s: %+v", e.Kind, e.State)
		}
		if e.Kind == xfrm.MsgDelSA && (e.State == nil || e.StateID.String() != "0x00001000 192.168.1.64→192.168.1.65") {
			t.Errorf("DELSA of %v", e.StateID)
		}
		if e.Policy != nil && e.Policy.Index == 0 {
			t.Errorf("%s without index", e.Kind)
		}
		if len(got) == len(want) {
			break
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	n := 0
	for e, err := range onlyPolicy {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			break
		}
		if e.Policy == nil && e.Kind != xfrm.MsgFlushPolicy {
			t.Errorf("group POLICY got %s", e.Kind)
		}
		if n++; n == 5 {
			cancel()
		}
	}
	if n != 5 {
		t.Errorf("%d events for group POLICY, want 5", n)
	}
}

// TestSlowListener: nobody waits for who does not read; it loses events, is told, and goes on.
func TestSlowListener(t *testing.T) {
	path := serve(t, newFakeDB(), nil)
	ctx, c := testContext(t), dial(t, path)
	events := dial(t, path).Listen(ctx, xfrm.GroupPolicy)
	p := testPolicy("10.2.0.0/16")
	const sent = 2*eventQueue + 1000
	for i := range sent {
		p.Priority = uint32(i)
		one, cancel := context.WithTimeout(ctx, writeTimeout)
		if err := c.Database().UpdatePolicy(one, p); err != nil {
			t.Fatalf("the others wait: %v", err)
		}
		cancel()
	}
	if err := c.Database().DeletePolicy(ctx, p.ID()); err != nil { // lost too
		t.Fatal(err)
	}
	got, overruns := 0, 0
	for e, err := range events {
		switch {
		case errors.Is(err, unix.ENOBUFS):
			overruns++
			if err := c.Database().AddPolicy(ctx, testPolicy("10.9.0.0/16")); err != nil {
				t.Fatal(err)
			}
			continue
		case err != nil:
			t.Fatal(err)
		case e.Kind == xfrm.MsgUpdPolicy:
			got++
			continue
		case e.Kind == xfrm.MsgDelPolicy:
			t.Fatal("nothing was lost")
		}
		break // the policy that was added after the overrun
	}
	if overruns != 1 || got < eventQueue || got >= sent {
		t.Errorf("%d of %d events, told of %d overruns", got, sent, overruns)
	}
}

// TestPeer: only the one user is answered, and a real other user is not.
func TestPeer(t *testing.T) {
	fake := newFakeDB()
	c := dial(t, serve(t, fake, func(s *Server) { s.PeerUID = 4_000_000 }))
	err := c.Database().AddSA(testContext(t), testSA(1))
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "may not program this device") {
		t.Errorf("%v", err)
	}
	for _, err = range c.Database().SAs(testContext(t)) {
	}
	if !errors.Is(err, unix.EPERM) || fake.countSAs() != 0 {
		t.Errorf("%v", err)
	}
}

const nobodySocket = "XFRM_SERVER_TEST_SOCKET"

// TestNobody connects as another user, in a child process, to a socket left open to all.
func TestNobody(t *testing.T) {
	if path := os.Getenv(nobodySocket); path != "" {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		conn.Write(xfrm.AppendMessage(nil, newSA(t, 1, 1, netlink.Acknowledge)))
		if errno := errnoIn(t, answers(t, conn, 1)[0]); errno != unix.EPERM {
			t.Errorf("answered %v", errno)
		}
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("it takes root to become another user")
		}
		t.Skip("it takes root to become another user")
	}
	fake := newFakeDB()
	path := serve(t, fake, nil)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test's directories and binary are root's alone: lend out copies.
	dir, err := os.MkdirTemp("/tmp", "xfrm-nobody")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	lent := filepath.Join(dir, "test")
	if err := os.WriteFile(lent, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(path); strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(dir, 0o755)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(lent, "-test.run", "^TestNobody$", "-test.v")
	cmd.Env = append(os.Environ(), nobodySocket+"="+path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if fake.countSAs() != 0 {
		t.Error("nobody added an SA")
	}
}

// TestConcurrent: clients, dumps and listeners all at once.
func TestConcurrent(t *testing.T) {
	fake := newFakeDB()
	path, ctx := serve(t, fake, nil), testContext(t)
	shared := dial(t, path)
	var wg sync.WaitGroup
	for i := range 8 {
		own := dial(t, path)
		wg.Go(func() {
			for j := range 40 {
				sa := testSA(ipsec.SPI(0x10000*(i+1) + j))
				c := own
				if j%2 == 0 {
					c = shared
				}
				if err := c.Database().AddSA(ctx, sa); err != nil {
					t.Error(err)
				}
				if got, err := c.Database().LookupSA(ctx, sa.ID()); err != nil || got.SPI != sa.SPI {
					t.Errorf("asked for %s, got %s, %v", sa.SPI, got.SPI, err)
				}
				if j%10 == 0 {
					for _, err := range c.Database().SAs(ctx) {
						if err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	if fake.countSAs() != 320 {
		t.Errorf("%d SAs, want 320", fake.countSAs())
	}
}

// stuckDB blocks in AddSA until its context ends.
type stuckDB struct{ *fakeDB }

func (stuckDB) AddSA(ctx context.Context, _ ipsec.SA) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestInterrupt: deadlines and Close end a wait, and the client is usable afterwards.
func TestInterrupt(t *testing.T) {
	c := dial(t, serve(t, stuckDB{newFakeDB()}, nil))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err := c.Database().AddSA(ctx, testSA(1))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "add SA 0x00000001 192.168.1.64→") {
		t.Errorf("%v", err)
	}
	if err := c.Database().AddPolicy(testContext(t), testPolicy("10.2.0.0/16")); err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
	ended := make(chan error)
	go func() { ended <- c.Database().AddSA(context.Background(), testSA(2)) }()
	time.Sleep(20 * time.Millisecond)
	c.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Close during a request: %v", err)
	}
	if err := c.Database().FlushSAs(context.Background()); err == nil {
		t.Error("a closed client works")
	}
}

// TestRestart: a client outlives its device.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dev.sock")
	start := func() (stop func()) {
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		s := New(newFakeDB(), nil)
		s.PeerUID = uint32(os.Geteuid())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { s.Serve(ctx, l); close(done) }()
		return func() { cancel(); <-done }
	}
	stop := start()
	c := dial(t, path)
	if err := c.Database().AddSA(testContext(t), testSA(1)); err != nil {
		t.Fatal(err)
	}
	stop()
	err := c.Database().AddSA(testContext(t), testSA(1))
	if !errors.Is(err, unix.ENOENT) || errors.Is(err, ipsec.ErrNotExist) || !strings.Contains(err.Error(), "is the device running?") {
		t.Errorf("while it is down: %v", err)
	}
	defer start()()
	if err := c.Database().AddSA(testContext(t), testSA(1)); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}
