package underlay

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
)

// maxExtensions is the number of IPv6 extension headers a datagram may carry here: RFC
// 8200, section 4.1 recommends hop-by-hop options, destination options, routing, and
// destination options again.
const maxExtensions = 4

// Lengths in bytes of what the kernel's control messages bring (linux/in.h, linux/in6.h).
const (
	cmsgHeaderLen = unix.SizeofCmsghdr
	pktinfo4Len   = unix.SizeofInet4Pktinfo
	pktinfo6Len   = unix.SizeofInet6Pktinfo

	// Room for the control messages of one datagram. An extension header has up to
	// 2,048 bytes.
	control4Len = 256
	control6Len = 512 + maxExtensions*2048
)

// ipv6FlowInfo is IPV6_FLOWINFO (linux/in6.h): traffic class and flow label, as option
// and as control message.
const ipv6FlowInfo = 11

var (
	errControl    = errors.New("malformed control messages")
	errExtensions = errors.New("too many IPv6 extension headers")
)

// extension is an IPv6 extension header as received.
type extension struct {
	proto uint8 // its protocol number, the value of the next-header byte before it
	bytes []byte
}

// ancillary is what the control messages of one datagram say about its IP header. Slices
// point into the control messages.
type ancillary struct {
	local     netip.Addr // destination in the IP header, without zone
	index     uint32     // interface the datagram arrived on
	tos, ttl  uint8
	flowLabel uint32
	segment   int    // UDP_GRO: length of each datagram in this one; 0 if it is alone
	options   []byte // IPv4
	ext       [maxExtensions]extension
	extCount  int
}

// parse reads the control messages of a datagram received on a socket of this package.
func (a *ancillary) parse(control []byte) error {
	*a = ancillary{}
	for len(control) >= cmsgHeaderLen {
		size := binary.NativeEndian.Uint64(control)
		level := int32(binary.NativeEndian.Uint32(control[8:]))
		kind := int32(binary.NativeEndian.Uint32(control[12:]))
		if size < cmsgHeaderLen || size > uint64(len(control)) {
			return errControl
		}
		if err := a.take(level, kind, control[cmsgHeaderLen:size]); err != nil {
			return err
		}
		control = control[min(align8(int(size)), len(control)):]
	}
	return nil
}

func align8(n int) int { return (n + 7) &^ 7 }

// take reads one control message; those it does not know say nothing about the header.
func (a *ancillary) take(level, kind int32, data []byte) error {
	switch level {
	case unix.SOL_IP:
		return a.take4(kind, data)
	case unix.SOL_IPV6:
		return a.take6(kind, data)
	case unix.SOL_UDP:
		if kind == unix.UDP_GRO {
			n, err := integer(data)
			a.segment = max(0, n)
			return err
		}
	}
	return nil
}

func (a *ancillary) take4(kind int32, data []byte) (err error) {
	var n int
	switch kind {
	case unix.IP_PKTINFO: // interface, local address, address in the header
		if len(data) < pktinfo4Len {
			return errControl
		}
		a.index = binary.NativeEndian.Uint32(data)
		a.local = netip.AddrFrom4([4]byte(data[8:]))
	case unix.IP_TOS:
		if len(data) < 1 {
			return errControl
		}
		a.tos = data[0]
	case unix.IP_TTL:
		n, err = integer(data)
		a.ttl = uint8(n)
	case unix.IP_RECVOPTS:
		if len(data) > 40 || len(data)%4 != 0 {
			return errControl
		}
		a.options = data
	}
	return err
}

func (a *ancillary) take6(kind int32, data []byte) (err error) {
	var n int
	switch kind {
	case unix.IPV6_PKTINFO: // address in the header, interface
		if len(data) < pktinfo6Len {
			return errControl
		}
		a.local = netip.AddrFrom16([16]byte(data))
		a.index = binary.NativeEndian.Uint32(data[16:])
	case unix.IPV6_TCLASS:
		n, err = integer(data)
		a.tos = uint8(n)
	case unix.IPV6_HOPLIMIT:
		n, err = integer(data)
		a.ttl = uint8(n)
	case ipv6FlowInfo:
		if len(data) < 4 {
			return errControl
		}
		a.flowLabel = binary.BigEndian.Uint32(data) & 0xfffff
	case unix.IPV6_HOPOPTS:
		return a.addExtension(inet.ProtoHopByHop, data)
	case unix.IPV6_DSTOPTS:
		return a.addExtension(inet.ProtoDestOpts, data)
	case unix.IPV6_RTHDR:
		return a.addExtension(inet.ProtoRouting, data)
	}
	return err
}

// addExtension keeps an extension header; the kernel reports them in the packet's order.
func (a *ancillary) addExtension(proto uint8, data []byte) error {
	if len(data) < 8 || len(data) != 8+8*int(data[1]) {
		return errControl
	}
	if a.extCount == maxExtensions {
		return errExtensions
	}
	a.ext[a.extCount] = extension{proto, data}
	a.extCount++
	return nil
}

func integer(data []byte) (int, error) {
	if len(data) < 4 {
		return 0, errControl
	}
	return int(int32(binary.NativeEndian.Uint32(data))), nil
}
