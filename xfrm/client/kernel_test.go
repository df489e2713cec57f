package client

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// freshKernel is a client of the kernel in a network namespace of the test's own. The
// calling thread is back in its namespace when it returns: the client has to remember.
func freshKernel(t *testing.T) *Client {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("it takes root to make a network namespace")
		}
		t.Skip("it takes root to make a network namespace")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	fresh, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	defer netns.Set(home)
	c, err := Kernel()
	if errors.Is(err, ipsec.ErrUnsupported) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func testPolicy(dst string, dir ipsec.Direction) ipsec.Policy {
	return ipsec.Policy{
		Selector:  ipsec.Selector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix(dst), Protocol: unix.IPPROTO_UDP, DstPort: ipsec.Port(53)},
		Direction: dir, Action: ipsec.Protect, Priority: 5,
		Processing: []ipsec.Processing{{
			Src: netip.MustParseAddr("192.168.1.64"), Dst: netip.MustParseAddr("192.168.1.65"), Mode: ipsec.Tunnel, RequestID: 7,
		}},
	}
}

// TestKernelPolicies: the kernel gives back what it was given, by way of package ipsec.
func TestKernelPolicies(t *testing.T) {
	c, ctx := freshKernel(t), testContext(t)
	if c.Name() != "kernel" {
		t.Error(c.Name())
	}
	db := c.Database()
	want := make(map[ipsec.PolicyID]ipsec.Policy)
	for i, dir := range []ipsec.Direction{ipsec.Inbound, ipsec.Outbound, ipsec.Forward} {
		for j := range 100 {
			p := testPolicy(fmt.Sprintf("10.2.%d.0/24", j), dir)
			switch j % 3 {
			case 1:
				p.Action, p.Processing = ipsec.Discard, nil
			case 2:
				p.Processing[0].Optional = dir != ipsec.Outbound // where Linux allows it
			}
			if err := db.AddPolicy(ctx, p); err != nil {
				t.Fatal(err)
			}
			p.Priority = uint32(i + j)
			if err := db.UpdatePolicy(ctx, p); err != nil {
				t.Fatal(err)
			}
			want[p.ID()] = p
		}
	}
	p := testPolicy("10.2.0.0/24", ipsec.Outbound)
	if err := db.AddPolicy(ctx, p); !errors.Is(err, ipsec.ErrExist) || !errors.Is(err, unix.EEXIST) {
		t.Errorf("second add: %v", err)
	}
	if info, err := c.SPDInfo(ctx); err != nil || info.In != 100 || info.Out != 100 || info.Fwd != 100 {
		t.Errorf("SPDInfo %+v, %v", info, err)
	}
	for got, err := range db.Policies(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		w, ok := want[got.ID()]
		if got.Index == 0 || got.Added.IsZero() {
			t.Errorf("%s: no index or time", got.ID())
		}
		w.Index, w.Added = got.Index, got.Added
		if !ok || !reflect.DeepEqual(got, w) {
			t.Fatalf("read back\n %+v\nwant\n %+v", got, w)
		}
		byIndex, err := db.LookupPolicy(ctx, ipsec.PolicyID{Direction: got.Direction, Index: got.Index})
		if err != nil || !reflect.DeepEqual(byIndex, w) {
			t.Fatalf("by index: %+v, %v", byIndex, err)
		}
		delete(want, got.ID())
		if err := db.DeletePolicy(ctx, got.ID()); err != nil { // during the dump
			t.Fatal(err)
		}
	}
	if len(want) != 0 {
		t.Errorf("%d policies not listed", len(want))
	}
	if err := db.DeletePolicy(ctx, p.ID()); !errors.Is(err, ipsec.ErrNotExist) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("delete of none: %v", err)
	}
	if err := db.FlushPolicies(ctx); err != nil {
		t.Errorf("flush of none: %v", err)
	}
}

// TestKernelNamespace: requests, dumps and listeners all stay in the client's namespace.
func TestKernelNamespace(t *testing.T) {
	a, b, ctx := freshKernel(t), freshKernel(t), testContext(t)
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := a.Listen(lctx, xfrm.GroupPolicy)
	if err := b.Database().AddPolicy(ctx, testPolicy("10.9.0.0/24", ipsec.Outbound)); err != nil {
		t.Fatal(err)
	}
	p := testPolicy("10.2.0.0/24", ipsec.Outbound)
	if err := a.Database().AddPolicy(ctx, p); err != nil {
		t.Fatal(err)
	}
	if err := a.Database().DeletePolicy(ctx, p.ID()); err != nil {
		t.Fatal(err)
	}
	if err := a.FlushPolicies(ctx, xfrm.PolicyMain); err != nil { // empty: no event
		t.Fatal(err)
	}
	var kinds []string
	for e, err := range events {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			break
		}
		kinds = append(kinds, e.Kind.String())
		got, err := e.Policy.IPsec()
		if err != nil || got.ID() != p.ID() {
			t.Errorf("%s of %s, %v; want %s", e.Kind, got.ID(), err, p.ID())
		}
		if e.Kind == xfrm.MsgDelPolicy {
			cancel()
		}
	}
	if want := []string{"NEWPOLICY", "DELPOLICY"}; !reflect.DeepEqual(kinds, want) {
		t.Errorf("events %v, want %v", kinds, want)
	}
	n := 0
	for _, err := range b.Policies(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d policies in the other namespace, want 1", n)
	}
}

// TestKernelStates adds an SA where the kernel can, and else wants to see its words.
func TestKernelStates(t *testing.T) {
	c, ctx := freshKernel(t), testContext(t)
	db := c.Database()
	sa := ipsec.SA{
		Src: netip.MustParseAddr("192.168.1.64"), Dst: netip.MustParseAddr("192.168.1.65"), SPI: 0x28f39549,
		RequestID: 7, Key: ipsec.RandomKey(36), ICVBits: 128, Window: 128, ESN: true,
		Selector: ipsec.Selector{Src: netip.MustParsePrefix("192.168.1.64/32"), Dst: netip.MustParsePrefix("192.168.1.65/32")},
		Limits:   ipsec.Limits{HardBytes: 1 << 40, SoftTime: time.Hour},
	}
	err := db.AddSA(ctx, sa)
	if err != nil {
		const want = "add SA 0x28f39549 192.168.1.64→192.168.1.65: Requested AEAD algorithm not found"
		if err.Error() != want || !errors.Is(err, ipsec.ErrUnsupported) || !errors.Is(err, unix.ENOSYS) {
			t.Errorf("%q, want %q", err, want)
		}
		var e *Error
		if !errors.As(err, &e) || e.Op != "add SA" || e.Errno != unix.ENOSYS {
			t.Errorf("%#v", e)
		}
	} else {
		got, err := db.LookupSA(ctx, sa.ID())
		sa.Counters.Added = got.Counters.Added
		if err != nil || !reflect.DeepEqual(got, sa) {
			t.Errorf("read back\n %+v, %v; want\n %+v", got, err, sa)
		}
		if err := db.AddSA(ctx, sa); !errors.Is(err, ipsec.ErrExist) {
			t.Errorf("second add: %v", err)
		}
		if err := db.DeleteSA(ctx, sa.ID()); err != nil {
			t.Error(err)
		}
	}
	if _, err := db.LookupSA(ctx, sa.ID()); !errors.Is(err, ipsec.ErrNotExist) || !errors.Is(err, unix.ESRCH) {
		t.Errorf("look-up of none: %v", err)
	}
	if err := db.DeleteSA(ctx, sa.ID()); !errors.Is(err, ipsec.ErrNotExist) {
		t.Errorf("delete of none: %v", err)
	}
	for sa, err := range c.States(ctx, xfrm.StateFilter{Dst: netip.MustParsePrefix("10.0.0.0/8")}) {
		t.Errorf("listed %+v, %v", sa, err)
	}
	if info, err := c.SADInfo(ctx); err != nil || info.Count != 0 || info.HashMax == 0 {
		t.Errorf("SADInfo %+v, %v", info, err)
	}
	if err := db.FlushSAs(ctx); err != nil {
		t.Errorf("flush of none: %v", err)
	}
}

// TestKernelInterrupt: a context that has ended and one that ends during Listen.
func TestKernelInterrupt(t *testing.T) {
	c := freshKernel(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Database().FlushSAs(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	before := runtime.NumGoroutine()
	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	for _, err := range c.Listen(ctx) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
	listening := c.Listen(context.Background())
	time.AfterFunc(20*time.Millisecond, func() { c.Close() })
	for _, err := range listening {
		if !errors.Is(err, errClosed) {
			t.Errorf("%v", err)
		}
	}
	for end := time.Now().Add(30 * time.Second); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
	if err := c.Database().FlushSAs(context.Background()); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestKernelUnprivileged asks as a user who may not.
func TestKernelUnprivileged(t *testing.T) {
	const child = "XFRM_CLIENT_TEST_UNPRIVILEGED"
	if os.Getenv(child) != "" {
		c, err := Kernel()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		err = c.Database().FlushPolicies(testContext(t))
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("%v", err)
		}
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("it takes root to drop it")
		}
		t.Skip("it takes root to drop it")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "xfrm-unprivileged")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lent := dir + "/test" // the test's own binary is root's alone
	if err := os.WriteFile(lent, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(lent, "-test.run", "^TestKernelUnprivileged$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Cloneflags: unix.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
