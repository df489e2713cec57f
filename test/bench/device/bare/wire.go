package main

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
)

// ends are both ends of the wire.
type ends struct {
	local, peer netip.Addr
	mac         net.HardwareAddr // the peer's
	device      *net.Interface
}

// wire is the sockets for both directions.
type wire struct {
	send, receive int

	header []byte // that everything sent begins with
	ipAt   int    // of the IP header in it, which tells the length; -1: the kernel writes that header
}

const (
	espLen    = 8       // of ESP's header
	socketBuf = 8 << 20 // bytes
)

func openWire(via string, e ends) (*wire, error) {
	esp, err := rawSocket(e)
	if err != nil {
		return nil, err
	}
	switch via {
	case "raw":
		return &wire{esp, esp, make([]byte, espLen), -1}, nil
	case "packet":
		return packetSockets(e, esp)
	}
	return nil, fmt.Errorf("--via %s: not raw or packet", via)
}

// rawSocket receives protocol 50 of the peer, and keeps the kernel from answering it.
func rawSocket(e ends) (int, error) {
	fd, err := socket(unix.AF_INET, unix.SOCK_RAW, inet.ProtoESP)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE); err != nil {
		return 0, err
	}
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Addr: e.peer.As4()})
}

func packetSockets(e ends, esp int) (*wire, error) {
	// The raw socket is for the kernel's sake only.
	if err := filter(esp, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}); err != nil {
		return nil, err
	}
	receive, err := socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	const protocolAt = 9
	if err := filter(receive,
		unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: protocolAt},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: inet.ProtoESP, Jf: 1},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K},
	); err != nil {
		return nil, err
	}
	if err := unix.Bind(receive, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IP), Ifindex: e.device.Index}); err != nil {
		return nil, err
	}
	send, err := socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(send, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return nil, err
	}
	header := append(append([]byte{}, e.mac...), e.device.HardwareAddr...)
	header = append(header, unix.ETH_P_IP>>8, unix.ETH_P_IP&0xff)
	at := len(header)
	return &wire{send, receive, append(header, outerHeader(e)...), at}, unix.Bind(send, &unix.SockaddrLinklayer{Ifindex: e.device.Index})
}

// outerHeader is an IPv4 header and room for that of ESP.
func outerHeader(e ends) []byte {
	h := make([]byte, inet.IPv4Len+espLen)
	h[0], h[6], h[8], h[9] = 0x45, 0x40, 64, inet.ProtoESP // DF
	copy(h[12:], e.local.AsSlice())
	copy(h[16:], e.peer.AsSlice())
	return h
}

// socket opens a socket that does not wait.
func socket(family, kind, protocol int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return 0, err
	}
	for _, option := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, socketBuf); err != nil {
			return 0, err
		}
	}
	return fd, nil
}

func filter(fd int, program ...unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }
