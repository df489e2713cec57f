package underlay

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/internal/netns"
)

const testMark = 0x2a

// pair is two namespaces joined by a cable.
type pair struct {
	a, b       *netns.NS
	srcs, dsts [2]netip.Addr // of a and b: IPv4, IPv6
}

func newPair(t testing.TB) *pair {
	t.Helper()
	if os.Geteuid() != 0 {
		reason := fmt.Sprintf("needs root, runs as uid %d", os.Geteuid())
		if os.Getenv("CI") != "" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	p := &pair{
		srcs: [2]netip.Addr{netip.MustParseAddr("10.8.0.1"), netip.MustParseAddr("fd08::1")},
		dsts: [2]netip.Addr{netip.MustParseAddr("10.8.0.2"), netip.MustParseAddr("fd08::2")},
	}
	for _, ns := range []**netns.NS{&p.a, &p.b} {
		var err error
		if *ns, err = netns.New(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*ns).Close() })
	}
	end := func(ns *netns.NS, addrs [2]netip.Addr) netns.End {
		return netns.End{NS: ns, Name: "wire0", Addresses: []netip.Prefix{
			netip.PrefixFrom(addrs[0], 24), netip.PrefixFrom(addrs[1], 64),
		}}
	}
	if err := netns.Cable(end(p.a, p.srcs), end(p.b, p.dsts)); err != nil {
		t.Fatal(err)
	}
	p.introduce(t, p.a, p.b, p.dsts)
	p.introduce(t, p.b, p.a, p.srcs)
	return p
}

// introduce makes the addresses of another namespace known neighbours of ns: the kernel
// keeps few packets for a neighbour it must ask for first, and drops the rest of a burst.
func (p *pair) introduce(t testing.TB, ns, other *netns.NS, addrs [2]netip.Addr) {
	t.Helper()
	var peer netlink.Link
	in(t, other, func() (err error) { peer, err = netlink.LinkByName("wire0"); return })
	index := wireIndex(t, ns)
	in(t, ns, func() error {
		for _, a := range addrs {
			if err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: index, IP: a.AsSlice(), HardwareAddr: peer.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// in runs f in a namespace and fails the test on an error.
func in(t testing.TB, ns *netns.NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

func (p *pair) src(v6 bool) netip.Addr { return p.srcs[index(v6)] }
func (p *pair) dst(v6 bool) netip.Addr { return p.dsts[index(v6)] }

func index(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

func wireIndex(t testing.TB, ns *netns.NS) (n int) {
	t.Helper()
	in(t, ns, func() error {
		l, err := netlink.LinkByName("wire0")
		if err == nil {
			n = l.Attrs().Index
		}
		return err
	})
	return n
}

type receiver interface {
	Receive([]Datagram) (int, error)
	Malformed() uint64
	Close() error
}

func listenRaw(t testing.TB, ns *netns.NS, v6 bool) (r *Receiver) {
	t.Helper()
	in(t, ns, func() error {
		all, err := ListenRaw(Config{Mark: testMark}, v6)
		if err == nil {
			r = all[0]
		}
		return err
	})
	t.Cleanup(func() { r.Close() })
	return r
}

func listenUDP(t testing.TB, ns *netns.NS, cfg Config, v6 bool, port uint16) (u *UDP) {
	t.Helper()
	cfg.Mark = testMark
	in(t, ns, func() error {
		all, err := ListenUDP(cfg, v6, port)
		if err == nil {
			u = all[0]
		}
		return err
	})
	t.Cleanup(func() { u.Close() })
	return u
}

func newSender(t testing.TB, ns *netns.NS, cfg Config) (s *Sender) {
	t.Helper()
	cfg.Mark = testMark
	in(t, ns, func() (err error) { s, err = NewSender(cfg); return })
	t.Cleanup(func() { s.Close() })
	return s
}

// collect receives n datagrams, copied.
func collect(t testing.TB, r receiver, n int) []Datagram {
	t.Helper()
	guard := time.AfterFunc(30*time.Second, func() { r.Close() })
	defer guard.Stop()
	var got []Datagram
	batch := make([]Datagram, 7) // smaller than a GRO packet, so that one is handed out in parts
	for len(got) < n {
		k, err := r.Receive(batch)
		if err != nil {
			t.Fatalf("received %d of %d datagrams: %v", len(got), n, err)
		}
		for _, d := range batch[:k] {
			d.Header = append([]byte(nil), d.Header...)
			d.Payload = append([]byte(nil), d.Payload...)
			got = append(got, d)
		}
	}
	if len(got) > n {
		t.Fatalf("received %d datagrams, want %d", len(got), n)
	}
	if r.Malformed() != 0 {
		t.Fatalf("%d malformed datagrams", r.Malformed())
	}
	return got
}

// payload is n bytes that tell which payload they are.
func payload(number, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(number*31 + i)
	}
	return b
}

func families(t *testing.T, f func(t *testing.T, p *pair, v6 bool)) {
	for _, v6 := range []bool{false, true} {
		t.Run([]string{"IPv4", "IPv6"}[index(v6)], func(t *testing.T) { f(t, newPair(t), v6) })
	}
}

func TestCloseUnblocks(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		u := listenUDP(t, p.a, Config{}, v6, 4500)
		s := newSender(t, p.a, Config{})
		for name, r := range map[string]receiver{"raw": listenRaw(t, p.a, v6), "UDP": u} {
			errs := make(chan error)
			go func() {
				_, err := r.Receive(make([]Datagram, 1))
				errs <- err
			}()
			time.Sleep(20 * time.Millisecond)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-errs:
				if !errors.Is(err, os.ErrClosed) {
					t.Errorf("%s: got %v, want os.ErrClosed", name, err)
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("%s: Receive is still blocked", name)
			}
			if _, err := r.Receive(make([]Datagram, 1)); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: Receive after Close: %v", name, err)
			}
		}
		err := u.Send(Message{Dst: netip.AddrPortFrom(p.dst(v6), 4500), Payloads: [][]byte{{1}}})
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("UDP Send after Close: %v", err)
		}
		s.Close()
		if _, err := s.Send([][]byte{espPacket(p, v6, nil, 100, 1)}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
	})
}

func TestPortInUse(t *testing.T) {
	p := newPair(t)
	listenUDP(t, p.a, Config{}, false, 4500)
	err := p.a.Do(func() error { _, err := ListenUDP(Config{}, false, 4500); return err })
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "choose another port") {
		t.Fatalf("second socket on the port: %v", err)
	}
}
