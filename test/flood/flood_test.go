// Package flood puts two devices, built with the race detector, under load while they are
// programmed all the time.
package flood

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/test/lab"
	"espalier/xfrm/client"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

const (
	wanted   = 1_000_000 // packets out and in, both devices together
	patience = 3 * time.Minute
	port     = 7777
)

// TestFlood sends small datagrams both ways, one way bare and one way in UDP, until the SAs
// of both devices have counted a million packets. A race or a goroutine that does not end
// shows in the exit code.
func TestFlood(t *testing.T) {
	lab.Root(t)
	l := lab.New(t, "")
	for _, h := range l.Hosts() {
		h.StartDevice()
	}
	there, here := lab.Pair{SPI: 0x1000}, lab.Pair{SPI: 0x2000, V6: true, Tunnel: true, UDP: true, ESN: true}
	l.Program(there)
	l.Program(here)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var work sync.WaitGroup
	var sent, commands atomic.Uint64
	for _, f := range []struct {
		from, to *lab.Host
		dst      netip.Addr
	}{{l.A, l.B, lab.B4}, {l.B, l.A, lab.A6}} {
		sink(t, f.to)
		socket := dial(t, f.from, f.dst)
		work.Go(func() { sent.Add(flood(ctx, t, socket)) })
	}
	engines := make([]*client.Client, 0, 2)
	for _, h := range l.Hosts() {
		c, err := client.Dial(h.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		engines = append(engines, c)
		work.Go(func() { commands.Add(command(ctx, t, c)) })
	}

	start := time.Now()
	total := await(ctx, t, engines)
	took := time.Since(start)
	cancel()
	work.Wait()
	t.Logf("%d packets through both devices in %.1f s (%.0f/s), %d sent, %d commands meanwhile",
		total, took.Seconds(), float64(total)/took.Seconds(), sent.Load(), commands.Load())
	if total < wanted || commands.Load() < 100 {
		t.Errorf("%d packets and %d commands: too few", total, commands.Load())
	}
	for _, h := range l.Hosts() {
		t.Logf("drops of %s: %v", h.Name, h.Drops())
		pid := h.PID()
		if code := h.Stop(); code != 0 {
			t.Errorf("the device of host %s ended with %d", h.Name, code)
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("the device of host %s is still there: %v", h.Name, err)
		}
	}
}

// await waits until the SAs have counted enough.
func await(ctx context.Context, t *testing.T, engines []*client.Client) (total uint64) {
	for ; ctx.Err() == nil && total < wanted; time.Sleep(200 * time.Millisecond) {
		total = 0
		for _, c := range engines {
			for sa, err := range c.Database().SAs(ctx) {
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return total
				}
				total += sa.Counters.Packets
			}
		}
	}
	return total
}

// flood sends 64-byte datagrams, as many as there is room for in the TUN's queue at a time:
// what does not fit, the kernel throws away, and only the time for it is lost.
func flood(ctx context.Context, t *testing.T, c net.Conn) (sent uint64) {
	const size, count = 64, 64
	burst := make([]byte, size*count)
	for ; ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		if _, err := c.Write(burst); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Error(err)
			return sent
		}
		sent += count
	}
	return sent
}

// dial opens a socket that sends what is written to it as datagrams of 64 bytes.
func dial(t *testing.T, h *lab.Host, dst netip.Addr) net.Conn {
	t.Helper()
	var c net.Conn
	err := h.Do(func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(dst, port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 64) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return c
}

// sink takes the datagrams; nobody reads them.
func sink(t *testing.T, h *lab.Host) {
	t.Helper()
	err := h.Do(func() error {
		c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// command programs the device without a pause: SAs come and go, with sockets of their own,
// policies are replaced, everything is read. It returns how many commands it gave.
func command(ctx context.Context, t *testing.T, c *client.Client) (n uint64) {
	db := c.Database()
	for round := uint32(0); ctx.Err() == nil; round++ {
		err := errors.Join(addAndDelete(ctx, db, round), replace(ctx, db, round), readAll(ctx, c))
		if err != nil && ctx.Err() == nil {
			t.Error(err)
			return n
		}
		n += 9
		time.Sleep(5 * time.Millisecond)
	}
	return n
}

func addAndDelete(ctx context.Context, db ipsec.Database, round uint32) error {
	sa := ipsec.SA{
		Src: lab.A4, Dst: lab.B4, SPI: ipsec.SPI(0x100000 + round%1000), Mode: ipsec.Transport, RequestID: 99,
		Key: ipsec.NewKey(bytes.Repeat([]byte{7}, 36)), ICVBits: 128, Window: 64,
		Encap: &ipsec.Encap{SrcPort: 4501, DstPort: 4501},
	}
	if err := db.AddSA(ctx, sa); err != nil {
		return err
	}
	_, err := db.LookupSA(ctx, sa.ID())
	return errors.Join(err, db.DeleteSA(ctx, sa.ID()))
}

func replace(ctx context.Context, db ipsec.Database, round uint32) error {
	p := ipsec.Policy{
		Selector:   ipsec.Selector{Src: netip.MustParsePrefix("10.77.0.0/24"), Dst: netip.MustParsePrefix("10.78.0.0/24")},
		Direction:  ipsec.Inbound,
		Priority:   round % 7,
		Processing: []ipsec.Processing{{Mode: ipsec.Transport, RequestID: round}},
	}
	_, err := db.LookupPolicy(ctx, p.ID())
	if errors.Is(err, ipsec.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, db.UpdatePolicy(ctx, p))
	if round%3 == 0 {
		err = errors.Join(err, db.DeletePolicy(ctx, p.ID()))
	}
	return err
}

func readAll(ctx context.Context, c *client.Client) error {
	_, err := c.Drops(ctx)
	for _, e := range c.Database().SAs(ctx) {
		err = errors.Join(err, e)
	}
	for _, e := range c.Database().Policies(ctx) {
		err = errors.Join(err, e)
	}
	return err
}
