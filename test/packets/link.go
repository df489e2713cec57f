package packets

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"espalier/tun"
)

// Link sends and receives whole IP packets on one network device, past routing, neighbours
// and packet filters of its host: it is the cable, not the host. Sent into a TUN device
// packets reach the process behind it; received are those that process delivers.
type Link struct {
	file *os.File
	to   unix.SockaddrLinklayer
	vnet int      // length of the virtio_net_hdr before each packet: a TUN device's tells of several in one
	rest [][]byte // of the frame received last
}

// OpenLink opens the device in the network namespace of the calling thread. peer is the
// hardware address packets go to, nil for a TUN device.
func OpenLink(device string, peer net.HardwareAddr) (*Link, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	kind, vnet := unix.SOCK_DGRAM, 0
	if peer == nil {
		kind, vnet = unix.SOCK_RAW, tun.HeaderLen // which DGRAM has not; there is no link-layer header
	}
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	l := &Link{file: os.NewFile(uintptr(fd), device), vnet: vnet}
	l.to.Ifindex = dev.Index
	l.to.Halen = uint8(copy(l.to.Addr[:], peer))
	if vnet > 0 {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	}
	err = errors.Join(err,
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
		// Bound last: the protocol turns it on.
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: dev.Index}))
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	return l, nil
}

func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// Send sends one IP packet.
func (l *Link) Send(pkt []byte) error {
	to := l.to
	to.Protocol = networkOrder(unix.ETH_P_IP)
	if pkt[0]>>4 == 6 {
		to.Protocol = networkOrder(unix.ETH_P_IPV6)
	}
	raw, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	pkt = append(make([]byte, l.vnet), pkt...)
	// The descriptor is its receiver's and non-blocking; a full queue is waited for.
	werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), pkt, 0, &to)
		return err != unix.EAGAIN
	})
	return errors.Join(werr, err)
}

// Next waits for one more IP packet; the error is os.ErrDeadlineExceeded if none comes. Those that cross
// the device as one frame are given one by one.
func (l *Link) Next(wait time.Duration) ([]byte, error) {
	if err := l.file.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	for len(l.rest) == 0 {
		buf := make([]byte, tun.BufferLen)
		n, err := l.file.Read(buf)
		if err != nil {
			return nil, err
		}
		if n <= l.vnet || buf[l.vnet]>>4 != 4 && buf[l.vnet]>>4 != 6 { // ARP
			continue
		}
		l.rest = [][]byte{buf[l.vnet:n]}
		if l.vnet > 0 {
			l.rest = cut(tun.ParseFrame(buf[:n]))
		}
	}
	next := l.rest[0]
	l.rest = l.rest[1:]
	return next, nil
}

// cut gives the packets of a frame; what is none stays as it is.
func cut(f tun.Frame) (all [][]byte) {
	if f.Header.GSOType == tun.GSONone {
		return [][]byte{f.Packet}
	}
	s, err := f.Segmenter()
	if err != nil {
		return [][]byte{f.Packet}
	}
	for i := range s.Count() {
		p := make([]byte, s.Size(i))
		s.Write(p, i)
		all = append(all, p)
	}
	return all
}

// Close ends the link.
func (l *Link) Close() error { return l.file.Close() }
