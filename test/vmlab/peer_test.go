package vmlab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/internal/wire"
	"espalier/test/lab"
	"espalier/test/vmlab/guest"
	"espalier/xfrm/client"
)

// peer is a host of the lab with the userspace device. What would be the host at the other end
// of its cable is the VM: frames are carried from one to the other, and judged on the way. Its
// exported methods are those of guest.Outside.
type peer struct {
	lab    *lab.Lab
	device *client.Client
	tap    *os.File // at the VM's end of the cable

	mu       sync.Mutex
	classify [2]wire.Classifier // by direction
	seen     guest.Seen
	replay   [2]int // packets yet to be carried twice
}

// Directions.
const (
	toVM = iota
	fromVM
)

func newPeer(t *testing.T) *peer {
	l := lab.New(t, "p4p1")
	l.B.Must("ip", "link", "set", "p4p1", "promisc", "on")
	l.B.Must("ip", "address", "flush", "dev", "p4p1")
	l.A.Must("ip", "link", "set", "p4p1", "address", guest.HostMAC)
	// What is carried has to be whole: a cable of the kernel's leaves checksums out.
	l.A.Must("ethtool", "-K", "p4p1", "tx", "off")
	// Policies take neighbour discovery for what is to be encrypted.
	l.A.Must("ip", "neighbour", "replace", lab.B6.String(), "lladdr", guest.NICMAC, "dev", "p4p1")
	l.A.StartDevice()
	p := &peer{lab: l}
	var err error
	if p.device, err = client.Dial(l.A.Socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.device.Close() })
	if err := l.B.Do(func() (err error) { p.tap, err = openTap("p4p1"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.tap.Close() })
	for i := range p.classify {
		p.classify[i] = lab.Classifier()
	}
	serveEcho(t, l.A)
	return p
}

// openTap opens a device for whole frames, in the calling thread's network namespace.
func openTap(device string) (*os.File, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
	if err != nil {
		return nil, err
	}
	const receiveBuffer = 64 << 20 // nothing is to be lost on the way
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), device), nil
}

// serveEcho sends back what comes to the host by TCP and by UDP.
func serveEcho(t *testing.T, h *lab.Host) {
	t.Helper()
	var stream net.Listener
	var datagrams net.PacketConn
	address := fmt.Sprint(":", guest.EchoPort)
	err := h.Do(func() (err error) {
		if stream, err = net.Listen("tcp", address); err == nil {
			datagrams, err = net.ListenPacket("udp", address)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stream.Close()
		datagrams.Close()
	})
	go func() {
		for {
			conn, err := stream.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := datagrams.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				datagrams.WriteTo(buf[:n], from)
			}
		}
	}()
}

// serve carries frames until the wire is closed.
func (p *peer) serve(w *Wire) error {
	done := make(chan error, 1)
	go func() { done <- p.carry(toVM, w, p.tap) }()
	err := p.carry(fromVM, p.tap, w)
	p.tap.Close()
	for _, err := range []error{err, <-done} {
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
			return err
		}
	}
	return nil
}

// carry carries frames from one end to the other.
func (p *peer) carry(direction int, to io.Writer, from io.Reader) error {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return err
		}
		for range p.judge(direction, frame[:n]) {
			if _, err := to.Write(frame[:n]); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
	}
}

// judge counts a frame of the VM's and tells how often it is to be carried.
func (p *peer) judge(direction int, frame []byte) (times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const ethernet = 14
	if len(frame) <= ethernet || frame[ethernet]>>4 != 4 && frame[ethernet]>>4 != 6 {
		return 1
	}
	kind := p.classify[direction].Classify(frame[ethernet:])
	if direction == fromVM {
		p.seen.Add(kind)
	}
	if kind != wire.ESP || p.replay[direction] == 0 {
		return 1
	}
	p.replay[direction]--
	if direction == toVM {
		p.seen.ToVM++
	} else {
		p.seen.FromVM++
	}
	return 2
}

// Apply programs the device.
func (p *peer) Apply(script string, _ *struct{}) error {
	return lab.Apply(p.device, p.lab.A.NS, script)
}

// Drops are the device's.
func (p *peer) Drops(_ struct{}, drops *map[string]uint64) error {
	counts, err := p.device.Drops(context.Background())
	*drops = make(map[string]uint64)
	for _, d := range counts {
		(*drops)[d.Reason] = d.Packets
	}
	return err
}

// Packets is how many have passed one of the device's SAs.
func (p *peer) Packets(sa lab.SA, n *uint64) error {
	state, err := p.device.GetState(context.Background(), sa.ID())
	if err == nil {
		*n = state.Current.Packets
	}
	return err
}

// Ping sends an echo request to an address of the VM's.
func (p *peer) Ping(address string, answered *bool) error {
	dst, err := netip.ParseAddr(address)
	if err == nil {
		*answered = p.lab.A.Ping(dst, 1)
	}
	return err
}

// Replay has the next n ESP packets of each direction carried twice.
func (p *peer) Replay(n int, _ *struct{}) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replay = [2]int{n, n}
	return nil
}

// Seen tells what was carried.
func (p *peer) Seen(_ struct{}, seen *guest.Seen) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	*seen = p.seen
	return nil
}
