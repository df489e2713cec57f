package deploy

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"espalier/test/lab"
)

// TestRotationUnderTraffic replaces the SAs under TCP and numbered datagrams: nothing is dropped, nothing
// goes in clear. How much is lost under load, `go run ./test/bench tunnels` measures.
func TestRotationUnderTraffic(t *testing.T) {
	t.Parallel()
	const rotations, bytesPerSecond, datagrams = 2, 1e6, 500
	s := newSite(t)
	s.must(t, "apply", "--grace", "0s")
	var seen traffic
	counts := s.watch(t, func() {
		seen = s.load(t, bytesPerSecond, datagrams, func() {
			for range rotations {
				s.must(t, "rotate", "--grace", "0s", "--confirm-timeout", "30s")
			}
		})
	})
	t.Logf("%+v; on the wire %+v", seen, counts)
	if counts.Cleartext > 0 {
		t.Errorf("in clear: %+v", counts)
	}
	if seen.lost > 0 {
		t.Errorf("%d of %d datagrams were lost", seen.lost, seen.sent)
	}
	for _, h := range s.Hosts() {
		if drops := h.Drops(); len(drops) > 0 {
			t.Errorf("host %s: %v", h.Name, drops)
		}
	}
}

// traffic is what came through.
type traffic struct {
	sent, lost     uint64 // datagrams
	bytesPerSecond float64
}

// load sends TCP from A to B, at a rate in bytes a second, and numbered datagrams, while during runs.
func (s *site) load(t *testing.T, rate float64, datagrams int, during func()) (r traffic) {
	t.Helper()
	var listener net.Listener
	var receiver *net.UDPConn
	err := s.B.Do(func() (err error) {
		if listener, err = net.Listen("tcp", netip.AddrPortFrom(lab.B4, 0).String()); err == nil {
			receiver, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.B4, 0)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	defer receiver.Close()
	receiver.SetReadBuffer(32 << 20)
	var stream, sender net.Conn
	err = s.A.Do(func() (err error) {
		if stream, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second); err == nil {
			sender, err = net.Dial("udp", receiver.LocalAddr().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var stop atomic.Bool
	var received, came uint64
	start := time.Now()
	all.Go(func() { // TCP
		defer stream.Close()
		for sent, buffer := 0, make([]byte, 64<<10); !stop.Load(); {
			if float64(sent) > rate*time.Since(start).Seconds() {
				time.Sleep(time.Millisecond)
				continue
			}
			stream.SetWriteDeadline(time.Now().Add(10 * time.Second))
			n, err := stream.Write(buffer)
			if sent += n; err != nil {
				t.Errorf("TCP: %v", err)
				return
			}
		}
	})
	all.Go(func() {
		defer accepted.Close()
		for buffer := make([]byte, 256<<10); ; {
			n, err := accepted.Read(buffer)
			if received += uint64(n); err != nil {
				return
			}
		}
	})
	all.Go(func() { // UDP
		for packet := make([]byte, 256); !stop.Load(); time.Sleep(time.Millisecond) {
			for due := uint64(time.Since(start).Seconds() * float64(datagrams)); r.sent < due; r.sent++ {
				binary.BigEndian.PutUint64(packet, r.sent)
				if _, err := sender.Write(packet); err != nil {
					t.Errorf("UDP: %v", err)
					return
				}
			}
		}
	})
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		seen := map[uint64]bool{}
		for buffer := make([]byte, 2048); ; {
			n, err := receiver.Read(buffer)
			if err != nil {
				came = uint64(len(seen))
				return
			}
			if n >= 8 {
				seen[binary.BigEndian.Uint64(buffer)] = true
			}
		}
	}()
	during()
	took := time.Since(start).Seconds()
	stop.Store(true)
	all.Wait()
	time.Sleep(500 * time.Millisecond) // for the last datagrams
	receiver.SetReadDeadline(time.Now())
	<-counted
	r.lost, r.bytesPerSecond = r.sent-came, float64(received)/took
	return r
}
