package guard

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// match is a rule in the making: tests that must all hold, then a verdict. A test that
// cannot be made, because the packet is too short or a fragment, does not hold; neither
// does its opposite. Each method returns a longer match and leaves the receiver alone.
type match []expr.Any

func (m match) with(e ...expr.Any) match { return append(slices.Clip(m), e...) }

// reg is the one register the tests use in turn.
const reg = unix.NFT_REG_1

const (
	equal    = expr.CmpOpEq
	notEqual = expr.CmpOpNeq
)

func (m match) compare(op expr.CmpOp, value []byte) match {
	return m.with(&expr.Cmp{Op: op, Register: reg, Data: value})
}

// masked compares under a mask; a mask of ones is left out.
func (m match) masked(op expr.CmpOp, mask, value []byte) match {
	for _, b := range mask {
		if b != 0xff {
			zero := make([]byte, len(mask))
			m = m.with(&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(mask)), Mask: mask, Xor: zero})
			break
		}
	}
	return m.compare(op, value)
}

func (m match) load(base expr.PayloadBase, offset, length uint32) match {
	return m.with(&expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length})
}

func (m match) meta(key expr.MetaKey) match {
	return m.with(&expr.Meta{Key: key, Register: reg})
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// protocol tests what the kernel takes the frame for (EtherType, an 802.1Q tag removed).
func (m match) protocol(op expr.CmpOp, etherType uint16) match {
	return m.meta(expr.MetaKeyPROTOCOL).compare(op, be16(etherType))
}

// Offsets in an Ethernet frame as it is on the wire. The kernel puts the tag it has taken
// out of the frame back in its place for these tests.
const (
	etherTypeAt      = 12
	vlanIDAt         = 14
	vlanTypeAt       = 16
	innerVLANIDAt    = 18
	vlanIDMask       = 0x0fff
	fragOffsetMask   = 0x1fff // IPv4, in units of 8 bytes
	fragOffsetMaskV6 = 0xfff8 // fragment header
)

func (m match) etherType(at uint32, etherType uint16) match {
	return m.load(expr.PayloadBaseLLHeader, at, 2).compare(equal, be16(etherType))
}

func (m match) vlanIDNotZero(at uint32) match {
	return m.load(expr.PayloadBaseLLHeader, at, 2).masked(notEqual, be16(vlanIDMask), be16(0))
}

// upper tests the upper-layer protocol, behind IPv6 extension headers too.
func (m match) upper(op expr.CmpOp, proto uint8) match {
	return m.meta(expr.MetaKeyL4PROTO).compare(op, []byte{proto})
}

// field is a part of the upper-layer header.
type field struct{ offset, length uint32 }

// portFields says where the ports of a protocol are, or ICMP type and code, which Linux
// selectors hold in the place of source and destination port.
func portFields(proto uint8) (src, dst field, ok bool) {
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_DCCP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE:
		return field{0, 2}, field{2, 2}, true
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return field{0, 1}, field{1, 1}, true
	}
	return field{}, field{}, false
}

// withPorts lists the protocols of portFields.
var withPorts = [...]uint8{
	unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_DCCP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE,
	unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6,
}

// port tests a field against a selector's port. The upper-layer protocol must have been
// tested before, and that this is not a later fragment.
func (m match) port(op expr.CmpOp, f field, want ipsec.PortMatch) match {
	mask, value := be16(want.Mask), be16(want.Value&want.Mask)
	if f.length == 1 {
		mask, value = mask[1:], value[1:]
		if want.Value&want.Mask > 0xff {
			// An ICMP type or code is one byte. No such packet: nothing & 0 equals 1.
			mask, value = []byte{0}, []byte{1}
		}
	}
	return m.load(expr.PayloadBaseTransportHeader, f.offset, f.length).masked(op, mask, value)
}

// marked tests the fwmark, which the kernel keeps in its own byte order.
func (m match) marked(mark, mask uint32) match {
	return m.meta(expr.MetaKeyMARK).masked(equal,
		binary.NativeEndian.AppendUint32(nil, mask), binary.NativeEndian.AppendUint32(nil, mark))
}

// family is what IPv4 and IPv6 do differently.
type family struct {
	name         string // as nft writes it
	etherType    uint16
	srcAt, dstAt uint32 // offsets in the IP header
	addrLen      int
}

var (
	ipv4     = family{"ip", unix.ETH_P_IP, 12, 16, 4}
	ipv6     = family{"ip6", unix.ETH_P_IPV6, 8, 24, 16}
	families = [...]*family{&ipv4, &ipv6}
)

// start begins a match for packets of the family.
func (f *family) start() match { return match(nil).protocol(equal, f.etherType) }

// concerns reports whether the selector can match packets of the family.
func (f *family) concerns(s *ipsec.Selector) bool {
	return !s.Is4() && !s.Is6() || s.Is4() == (f.addrLen == 4)
}

func (f *family) addresses(m match, src, dst netip.Prefix) match {
	return f.address(f.address(m, f.srcAt, src), f.dstAt, dst)
}

func (f *family) address(m match, at uint32, p netip.Prefix) match {
	if !p.IsValid() || p.Bits() == 0 {
		return m
	}
	return m.load(expr.PayloadBaseNetworkHeader, at, uint32(f.addrLen)).masked(equal, f.mask(p.Bits()), p.Masked().Addr().AsSlice())
}

// mask is that of a prefix of the family.
func (f *family) mask(bits int) []byte {
	mask := make([]byte, f.addrLen)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// laterFragment tests for a fragment other than the first.
func (f *family) laterFragment(m match) match { return f.fragmentOffset(m, notEqual) }

// withHeader splits m into matches for packets that begin with an upper-layer header. This
// is not left to the load of a port: a kernel may read one from a later fragment's data
// (measured on 6.18).
func (f *family) withHeader(m match) []match {
	first := f.fragmentOffset(m, equal)
	if f == &ipv4 {
		return []match{first}
	}
	return []match{m.noFragment(), first}
}

// fragmentOffset compares with 0. In IPv6 neither comparison holds without a fragment header.
func (f *family) fragmentOffset(m match, op expr.CmpOp) match {
	if f == &ipv4 {
		return m.load(expr.PayloadBaseNetworkHeader, 6, 2).masked(op, be16(fragOffsetMask), be16(0))
	}
	return m.fragmentHeader(2, 2, 0).masked(op, be16(fragOffsetMaskV6), be16(0))
}

// noFragment tests that there is no IPv6 fragment header.
func (m match) noFragment() match {
	return m.fragmentHeader(0, 1, unix.NFT_EXTHDR_F_PRESENT).compare(equal, []byte{0})
}

// fragmentHeader loads a part of the IPv6 fragment header, or whether there is one.
func (m match) fragmentHeader(offset, length, flags uint32) match {
	return m.with(&expr.Exthdr{DestRegister: reg, Type: unix.IPPROTO_FRAGMENT, Offset: offset, Len: length, Flags: flags, Op: expr.ExthdrOpIpv6})
}

func (m match) accept() match { return m.with(&expr.Verdict{Kind: expr.VerdictAccept}) }
func (m match) leave() match  { return m.with(&expr.Verdict{Kind: expr.VerdictReturn}) }

func (m match) call(chain string) match {
	return m.with(&expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
}

func (m match) move(chain string) match {
	return m.with(&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

func (m match) drop(counter string) match {
	return m.with(&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}, &expr.Verdict{Kind: expr.VerdictDrop})
}
