package verify

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/xfrm"
)

// confession is the payload of the control packet, for whoever wonders.
const confession = "espalier verify: this packet is not encrypted, and you should have refused it"

// ahead is how far the control packet's sequence number lies beyond those sent: traffic that goes on
// does not reach it at once, and a receiver that takes it goes on taking what comes.
const ahead = 32

// controlPacket is an ESP packet of the SA with nothing encrypted and an ICV of zeros: what a NIC
// sends that does no cryptography, and one that does none takes.
func (f *Flow) controlPacket(seq uint64) []byte {
	inner, next := f.innerPacket()
	b := make([]byte, esp.HeaderLen+esp.IVLen, 256)
	binary.BigEndian.PutUint32(b, uint32(f.SA.SPI))
	binary.BigEndian.PutUint32(b[4:], uint32(seq))
	binary.BigEndian.PutUint64(b[8:], seq)
	b = append(b, inner...)
	padding := (4 - (len(inner)+2)%4) % 4 // RFC 4303 §2.4
	for i := range padding {
		b = append(b, byte(i+1))
	}
	b = append(b, byte(padding), next)
	return append(b, make([]byte, f.SA.AEAD.ICVBits/8)...)
}

// innerPacket is what a control packet carries, and the next header for it.
func (f *Flow) innerPacket() (b []byte, next byte) {
	udp := make([]byte, 8, 8+len(confession))
	binary.BigEndian.PutUint16(udp, discard)
	binary.BigEndian.PutUint16(udp[2:], discard)
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(confession)))
	udp = append(udp, confession...)
	binary.BigEndian.PutUint16(udp[6:], inet.Fold(inet.Sum(udp, inet.PseudoSum(f.Src, f.Dst, inet.ProtoUDP, len(udp)))))
	switch {
	case f.SA.Mode == xfrm.ModeTransport:
		return udp, inet.ProtoUDP
	case f.Src.Is4():
		b = append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, inet.ProtoUDP, 0, 0}, f.Src.AsSlice()...)
		next = inet.ProtoIPIP
	default:
		b = append([]byte{0x60, 0, 0, 0, 0, 0, inet.ProtoUDP, 64}, f.Src.AsSlice()...)
		next = inet.ProtoIPv6
	}
	b = append(append(b, f.Dst.AsSlice()...), udp...)
	inet.SetLength(b)
	return b, next
}

// canControl says whether a control packet can be sent for the SA.
func (f *Flow) canControl() bool { return f.SA.Encap == nil && f.SA.AEAD != nil }

// sendControl sends one from the calling thread's network namespace, past this host's policies.
func (f *Flow) sendControl(seq uint64) error {
	err := f.raw(func(fd int) error {
		return unix.Sendto(fd, f.controlPacket(seq), 0, sockaddr(f.SA.Dst))
	})
	if err != nil {
		return fmt.Errorf("send a control packet to %s: %w", f.SA.Dst, err)
	}
	return nil
}

// raw has use send ESP as it is, from the SA's source.
func (f *Flow) raw(use func(fd int) error) (err error) {
	family := unix.AF_INET
	if f.SA.Src.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ESP)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := bypass(fd, family); err != nil {
		return err
	}
	if err := unix.Bind(fd, sockaddr(f.SA.Src)); err != nil {
		return err
	}
	return use(fd)
}

// bypass gives a socket a policy of its own for what it sends, which asks for nothing (uapi
// linux/in.h, IP_XFRM_POLICY).
func bypass(fd, family int) error {
	const sizeofPolicyInfo = 168 // without attributes
	level, option := unix.IPPROTO_IP, unix.IP_XFRM_POLICY
	if family == unix.AF_INET6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY
	}
	p := &xfrm.Policy{Dir: xfrm.PolicyOut, Action: xfrm.PolicyAllow, Limits: xfrm.NoLimits}
	p.Sel.Family = uint16(family)
	payload, err := xfrm.EncodePolicy(p)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptString(fd, level, option, string(payload[:sizeofPolicyInfo])); err != nil {
		return fmt.Errorf("give a socket a policy of its own: %w", err)
	}
	return nil
}

func sockaddr(a netip.Addr) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}
