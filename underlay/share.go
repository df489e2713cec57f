package underlay

import (
	"fmt"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
)

// Several sockets may receive on one port, or the same protocol, to be read by as many threads. A
// packet goes to the socket whose number is its SPI modulo their number: those of one SA stay in
// their order.

// reusePort is what lets several sockets be bound to a port. The first is bound without it: then
// nobody else can have the port.
var reusePort = option{"SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}

// dividePort has the sockets of a port share what arrives in the order in which they were bound
// (SO_ATTACH_REUSEPORT_CBPF, socket(7)): the program, given to one of them but the first, names a
// socket. It sees the UDP payload; for one too short to hold an SPI, such as a keepalive, it fails,
// which names the first.
func dividePort(f *fd.File, sockets int) error {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(sockets)},
		{Code: unix.BPF_RET | unix.BPF_A},
	}
	return attach(f, unix.SO_ATTACH_REUSEPORT_CBPF, program)
}

// takeShare has a raw socket take only what falls to the socket of this number (SO_ATTACH_FILTER); what
// is too short to hold an SPI is for the first. Of IPv4 the program sees the IP header too.
func takeShare(f *fd.File, v6 bool, number, sockets int) error {
	const all = 1<<32 - 1
	short := uint32(0)
	if number == 0 {
		short = all
	}
	header := unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_W | unix.BPF_IMM, K: 0}
	if !v6 {
		header = unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0} // its length
	}
	return attach(f, unix.SO_ATTACH_FILTER, []unix.SockFilter{
		header,
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_ALU | unix.BPF_SUB | unix.BPF_X},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: 4, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: short},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_IND, K: 0},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(sockets)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(number), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	})
}

func attach(f *fd.File, option int, program []unix.SockFilter) error {
	err := f.Control(func(number int) error {
		return unix.SetsockoptSockFprog(number, unix.SOL_SOCKET, option, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	if err != nil {
		return fmt.Errorf("share what arrives among several of %s: %w", f.Name(), err)
	}
	return nil
}
