package tun

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/internal/netns"
)

const testMTU = 1420

// newNS makes a namespace for the test, or skips the test where that cannot be had.
func newNS(t *testing.T) *netns.NS {
	t.Helper()
	if _, err := os.Stat(clonePath); err != nil || os.Geteuid() != 0 {
		reason := fmt.Sprintf("needs root and %s: uid %d, %v", clonePath, os.Geteuid(), err)
		if os.Getenv("CI") != "" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// newDevice makes a TUN with addresses in a namespace, up.
func newDevice(t *testing.T, ns *netns.NS, queues int, addresses ...string) *Device {
	t.Helper()
	var d *Device
	err := ns.Do(func() (err error) {
		if d, err = Create("espt%d", queues); err != nil {
			return err
		}
		link, err := netlink.LinkByIndex(d.Index())
		if err != nil {
			return err
		}
		if link.Attrs().Name != d.Name() {
			return fmt.Errorf("index %d is %s, want %s", d.Index(), link.Attrs().Name, d.Name())
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetMTU(link, testMTU); err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	if d != nil {
		t.Cleanup(func() { d.Close() })
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// bridge carries the frames of one queue to another, as the packets a wire would see.
// It ends when the queue it reads is closed, and says how many frames were segmented.
func bridge(from, to *Queue, segmented *atomic.Int64) error {
	in, out := make([]byte, BufferLen), make([]byte, BufferLen)
	for {
		f, err := from.Read(in)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		s, err := f.Segmenter()
		if err != nil {
			return fmt.Errorf("%+v: %w", f.Header, err)
		}
		if f.Header.GSOType != GSONone && len(f.Packet) > testMTU {
			segmented.Add(1)
		}
		for i := range s.Count() {
			n := s.Write(out[HeaderLen:], i)
			if n > testMTU {
				return fmt.Errorf("packet of %d bytes on a link with MTU %d", n, testMTU)
			}
			if err := to.Write(VirtioHeader{}, out[:HeaderLen+n]); err != nil && !errors.Is(err, os.ErrClosed) {
				return err
			}
		}
	}
}

func TestTCPThroughTwoDevices(t *testing.T) {
	for _, tt := range []struct{ name, client, server string }{
		{"IPv4", "10.9.0.1", "10.9.0.2"},
		{"IPv6", "fd09::1", "fd09::2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bits := netip.MustParseAddr(tt.client).BitLen() * 3 / 4
			a, b := newNS(t), newNS(t)
			da := newDevice(t, a, 1, fmt.Sprintf("%s/%d", tt.client, bits))
			db := newDevice(t, b, 1, fmt.Sprintf("%s/%d", tt.server, bits))

			var segmented, ignored atomic.Int64
			var wg sync.WaitGroup
			errs := make(chan error, 2)
			wg.Go(func() { errs <- bridge(da.Queues()[0], db.Queues()[0], &segmented) })
			wg.Go(func() { errs <- bridge(db.Queues()[0], da.Queues()[0], &ignored) })

			transfer(t, a, b, tt.server)

			if err := errors.Join(da.Close(), db.Close()); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			for range 2 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			if segmented.Load() == 0 {
				t.Error("the kernel handed over no TSO frame")
			}
			t.Logf("%d TSO frames", segmented.Load())
		})
	}
}

// transfer sends 8 MiB from a client in a to a server in b and compares.
func transfer(t *testing.T, a, b *netns.NS, server string) {
	t.Helper()
	var l net.Listener
	if err := b.Do(func() (err error) { l, err = net.Listen("tcp", net.JoinHostPort(server, "0")); return }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		if c, err := l.Accept(); err == nil {
			io.Copy(h, c)
			c.Close()
		}
		got <- [32]byte(h.Sum(nil))
	}()
	var c net.Conn
	if err := a.Do(func() (err error) { c, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second); return }); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	data := bytes.Repeat([]byte("espalier"), 1<<20)
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if sum := <-got; sum != sha256.Sum256(data) {
		t.Fatal("the server received other data")
	}
}

// TestSegmentedWrite hands the stack a TSO frame, as coalescing will: it is taken, and
// refused where header and packet do not agree.
func TestSegmentedWrite(t *testing.T) {
	ns := newNS(t)
	d := newDevice(t, ns, 1, "192.168.1.65/24")
	f := stream{payload: make([]byte, 4000), mss: 1000, flags: 0x10}.frame()
	buf := append(make([]byte, HeaderLen), f.Packet...)
	f.Header.HeaderLength = 40
	if err := d.Queues()[0].Write(f.Header, buf); err != nil {
		t.Fatal(err)
	}
	// The answer to segments of an unknown connection is a reset for the whole frame.
	in := make([]byte, BufferLen)
	for {
		r, err := d.Queues()[0].Read(in)
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Segmenter()
		if err != nil {
			t.Fatal(err)
		}
		if h := s.Header(); h.Protocol == 6 && h.SrcPort == 5201 && h.DstPort == 40000 {
			break
		}
	}
	f.Header.ChecksumStart = 60000
	if err := d.Queues()[0].Write(f.Header, buf); err == nil {
		t.Fatal("a checksum beyond the packet was taken")
	}
	if err := d.Queues()[0].Write(VirtioHeader{}, buf[:HeaderLen]); err == nil {
		t.Fatal("an empty packet was taken")
	}
}

func TestCloseUnblocksReaders(t *testing.T) {
	ns := newNS(t)
	d := newDevice(t, ns, 2)
	errs := make(chan error)
	for _, q := range d.Queues() {
		go func() {
			buf := make([]byte, BufferLen)
			for {
				if _, err := q.Read(buf); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	time.Sleep(20 * time.Millisecond)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case err := <-errs:
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("got %v, want os.ErrClosed", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a reader is still blocked")
		}
	}
	err := ns.Do(func() error {
		_, err := netlink.LinkByName(d.Name())
		return err
	})
	if err == nil {
		t.Errorf("%s is still there after Close", d.Name())
	}
}

func TestMultipleQueues(t *testing.T) {
	d := newDevice(t, newNS(t), 4)
	if len(d.Queues()) != 4 || d.Name() != "espt0" {
		t.Fatalf("%d queues of %q, want 4 of espt0", len(d.Queues()), d.Name())
	}
}

func TestCreateRefusals(t *testing.T) {
	ns := newNS(t)
	d := newDevice(t, ns, 1)
	for _, tt := range []struct {
		name   string
		queues int
		want   string
	}{
		{"", 1, "1 to 15 bytes"},
		{"sixteen-bytes-xy", 1, "1 to 15 bytes"},
		{"esp0", 0, "at least one"},
		{d.Name(), 1, "in use"},
		{"lo", 1, "create TUN device lo"},
		{"esp0", 100000, "fewer"},
	} {
		var err error
		ns.Do(func() error {
			var d *Device
			if d, err = Create(tt.name, tt.queues); err == nil {
				d.Close()
			}
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Create(%q, %d): error %v, want one with %q", tt.name, tt.queues, err, tt.want)
		}
	}
}

func TestShortBuffer(t *testing.T) {
	d := newDevice(t, newNS(t), 1)
	if _, err := d.Queues()[0].Read(make([]byte, 1500)); !errors.Is(err, io.ErrShortBuffer) {
		t.Fatalf("got %v, want io.ErrShortBuffer", err)
	}
}

func TestFramePathAllocatesNothing(t *testing.T) {
	ns := newNS(t)
	d := newDevice(t, ns, 1, "10.9.0.1/24")
	var c net.Conn
	if err := ns.Do(func() (err error) { c, err = net.Dial("udp", "10.9.0.2:9"); return }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q, in, out, payload := d.Queues()[0], make([]byte, BufferLen), make([]byte, BufferLen), make([]byte, 1000)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Write(payload); err != nil {
			t.Fatal(err)
		}
		f, err := q.Read(in)
		if err != nil {
			t.Fatal(err)
		}
		s, err := f.Segmenter()
		if err != nil {
			t.Fatal(err)
		}
		n := s.Write(out[HeaderLen:], 0)
		if err := q.Write(VirtioHeader{}, out[:HeaderLen+n]); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations a packet", n)
	}
}
