package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
	"espalier/test/lab"
	"espalier/xfrm"
)

// flow is datagrams with numbers that go from one address to another all the time.
type flow struct {
	from, to netip.Addr
	sender   *net.UDPConn
	receiver *net.UDPConn
	phases   []string // in which each was sent
	failed   map[int]error
	mu       sync.Mutex
	came     map[uint32]bool
}

// streamPause is the time between two datagrams of a stream.
const streamPause = 20 * time.Millisecond

// streams begins one each way between pairs of addresses, of A and B. The function that is returned ends
// them, and fails the test if anything was lost. The SA by which a packet is about to leave may be deleted
// when a change is undone: the kernel says so to its sender (xfrm_output_one, XfrmOutStateInvalid).
func (s *site) streams(t *testing.T, pairs ...[2]netip.Addr) (end func()) {
	t.Helper()
	var all []*flow
	for _, pair := range pairs {
		for i, from := range s.Hosts() {
			st := &flow{from: pair[i], to: pair[1-i], failed: map[int]error{}, came: map[uint32]bool{}}
			st.sender, st.receiver = socketOn(t, from, st.from), socketOn(t, s.Hosts()[1-i], st.to)
			all = append(all, st)
		}
	}
	stop := make(chan struct{})
	var senders, receivers sync.WaitGroup
	for _, st := range all {
		senders.Go(func() { st.send(stop, func() string { return s.phase.Load().(string) }) })
		receivers.Go(st.receive)
	}
	time.Sleep(2 * streamPause)
	return func() {
		t.Helper()
		close(stop)
		senders.Wait()
		for start := time.Now(); time.Since(start) < time.Second; time.Sleep(streamPause) {
			whole := true
			for _, st := range all {
				whole = whole && st.whole()
			}
			if whole {
				break
			}
		}
		for _, st := range all {
			st.receiver.Close()
			st.sender.Close()
		}
		receivers.Wait()
		n := 0
		for _, st := range all {
			n += len(st.phases)
			for i, phase := range st.phases {
				if undoing := phase == steps.Undo && errors.Is(st.failed[i], unix.EINVAL); !st.came[uint32(i)] && !undoing {
					t.Errorf("%s → %s: datagram %d is lost, sent at %q: %v", st.from, st.to, i, phase, st.failed[i])
				}
			}
		}
		t.Logf("%d datagrams have come by %d streams", n, len(all))
	}
}

func socketOn(t *testing.T, h *lab.Host, a netip.Addr) (conn *net.UDPConn) {
	t.Helper()
	inside(t, h, func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		return err
	})
	return conn
}

func (st *flow) send(stop <-chan struct{}, phase func() string) {
	ticks := time.NewTicker(streamPause)
	defer ticks.Stop()
	payload := make([]byte, 200)
	copy(payload[4:], plaintext)
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-ticks.C:
		}
		binary.BigEndian.PutUint32(payload, uint32(n))
		st.phases = append(st.phases, phase())
		if _, err := st.sender.WriteTo(payload, st.receiver.LocalAddr()); err != nil {
			st.failed[n] = err
		}
	}
}

func (st *flow) receive() {
	buf := make([]byte, 1<<10)
	for {
		n, err := st.receiver.Read(buf)
		if err != nil {
			return
		}
		if n == 200 {
			st.mu.Lock()
			st.came[binary.BigEndian.Uint32(buf)] = true
			st.mu.Unlock()
		}
	}
}

func (st *flow) whole() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.came) == len(st.phases)
}

// sums are what all SAs of a host count, and its NIC.
type sums struct{ Numbered, Encrypted, Decrypted, Accepted, Failed uint64 }

func (a sums) since(b sums) sums {
	return sums{a.Numbered - b.Numbered, a.Encrypted - b.Encrypted, a.Decrypted - b.Decrypted, a.Accepted - b.Accepted, a.Failed - b.Failed}
}

// sums of both hosts, once they have come to rest.
func (s *site) sums(t *testing.T) [2]sums {
	t.Helper()
	var last [2]sums
	for start := time.Now(); ; time.Sleep(rest) {
		var now [2]sums
		for i, h := range s.Hosts() {
			for _, sa := range s.sas(h) {
				if sa.Dst == addresses[i][0].Addr() || sa.Dst == addresses[i][1].Addr() {
					now[i].Accepted += sa.Current.Packets
					now[i].Failed += uint64(sa.Stats.IntegrityFailed)
				} else if sa.Replay != nil {
					now[i].Numbered += uint64(sa.Replay.OSeqHi)<<32 | uint64(sa.Replay.OSeq)
				}
			}
			c := statistics(t, h)
			now[i].Encrypted, now[i].Decrypted = c["ipsec_tx_pkts"], c["ipsec_rx_pkts"]
		}
		if now == last {
			return now
		}
		if last = now; time.Since(start) > 5*time.Second {
			t.Fatalf("does not come to rest: %+v", now)
		}
	}
}

// exchangeWhile has TCP go both ways, again and again, as long as f takes.
func (s *site) exchangeWhile(t *testing.T, to netip.Addr, f func()) {
	t.Helper()
	done := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		for n := 1; ; n++ {
			err := lab.Exchange(s.A, s.B, netip.AddrPortFrom(to, 0), 64<<10)
			select {
			case <-done:
			default:
				if err == nil {
					time.Sleep(2 * streamPause)
					continue
				}
			}
			if err != nil {
				err = fmt.Errorf("connection %d: %w", n, err)
			}
			result <- err
			return
		}
	}()
	f()
	close(done)
	if err := <-result; err != nil {
		t.Errorf("TCP: %v", err)
	}
}

// onNICs is how many of a host's SAs are on its NIC.
func onNICs(list []*xfrm.State) (n int) {
	for _, sa := range list {
		if sa.Offload != nil {
			n++
		}
	}
	return n
}
