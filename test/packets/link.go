package packets

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Link sends and receives whole IP packets on one network device, past routing, neighbours
// and packet filters of its host: it is the cable, not the host. Sent into a TUN device
// packets reach the process behind it; received are those that process delivers.
type Link struct {
	file *os.File
	to   unix.SockaddrLinklayer
}

// OpenLink opens the device in the network namespace of the calling thread. peer is the
// hardware address packets go to, nil for a TUN device.
func OpenLink(device string, peer net.HardwareAddr) (*Link, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	l := &Link{file: os.NewFile(uintptr(fd), device)}
	l.to.Ifindex = dev.Index
	l.to.Halen = uint8(copy(l.to.Addr[:], peer))
	err = errors.Join(
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
	// The descriptor is its receiver's and non-blocking; a full queue is waited for.
	werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), pkt, 0, &to)
		return err != unix.EAGAIN
	})
	return errors.Join(werr, err)
}

// Next waits for one more IP packet; the error is os.ErrDeadlineExceeded if none comes.
func (l *Link) Next(wait time.Duration) ([]byte, error) {
	if err := l.file.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	for buf := make([]byte, 1<<16); ; {
		n, err := l.file.Read(buf)
		if err != nil {
			return nil, err
		}
		if n > 0 && (buf[0]>>4 == 4 || buf[0]>>4 == 6) { // and not ARP
			return buf[:n], nil
		}
	}
}

// Close ends the link.
func (l *Link) Close() error { return l.file.Close() }
