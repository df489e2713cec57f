package xfrm

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// Sizes of the fixed structs (uapi linux/xfrm.h, LP64).
const (
	sizeAddr          = 16
	sizeSelector      = 56
	sizeCurrent       = 32
	sizeMark          = 8
	sizeUsersaInfo    = 224
	sizeUsersaID      = 24
	sizePolicyInfo    = 168
	sizePolicyID      = 64
	sizeTmpl          = 64
	sizeAcquire       = 280
	sizeExpire        = 232
	sizePolExpire     = 176
	sizeAEventID      = 48
	sizeMapping       = 64
	sizeReport        = 60
	sizeEncap         = 24
	sizeOffload       = 8
	sizeAEAD          = 72 // and the key
	sizeReplay        = 12
	sizeReplayESN     = 24 // and the bitmap
	sizePolicyType    = 6
	sizeAddressFilter = 36
)

// host is the byte order of everything but addresses, SPIs and ports.
var host = binary.NativeEndian

// addrFamily is the family of the addresses given; those that are not valid do not count.
// It is AF_UNSPEC when none is.
func addrFamily(addrs ...netip.Addr) (uint16, error) {
	family := uint16(unix.AF_UNSPEC)
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		if a.Zone() != "" {
			return 0, invalid("address %s: a zone cannot be sent", a)
		}
		f := uint16(unix.AF_INET6)
		if a.Is4() {
			f = unix.AF_INET
		}
		if family != unix.AF_UNSPEC && f != family {
			return 0, invalid("addresses of both families (%v)", slices.Clone(addrs)) // addrs stays on the stack
		}
		family = f
	}
	return family, nil
}

// putAddr writes an xfrm_address_t; an invalid address is all zero.
func putAddr(b []byte, a netip.Addr) {
	switch {
	case a.Is4():
		a4 := a.As4()
		copy(b, a4[:])
	case a.IsValid():
		a16 := a.As16()
		copy(b, a16[:])
	}
}

// selectorFamily is the family a selector is sent with.
func selectorFamily(s *Selector) (uint16, error) {
	family, err := addrFamily(s.Src.Addr(), s.Dst.Addr())
	if err != nil {
		return 0, err
	}
	switch s.Family {
	case unix.AF_UNSPEC:
		return family, nil
	case unix.AF_INET, unix.AF_INET6:
	default:
		return 0, invalid("address family %d", s.Family)
	}
	if family != unix.AF_UNSPEC && family != s.Family {
		return 0, invalid("address family %d, addresses of family %d", s.Family, family)
	}
	return s.Family, nil
}

// putSelector writes a struct xfrm_selector.
func putSelector(b []byte, s *Selector) error {
	family, err := selectorFamily(s)
	if err != nil {
		return fmt.Errorf("selector: %w", err)
	}
	if s.Interface < 0 || s.Interface > 1<<31-1 {
		return invalid("selector: interface index %d", s.Interface)
	}
	putAddr(b[0:], s.Dst.Addr())
	putAddr(b[16:], s.Src.Addr())
	putPort(b[32:], s.DstPort.Value)
	putPort(b[34:], s.DstPort.Mask)
	putPort(b[36:], s.SrcPort.Value)
	putPort(b[38:], s.SrcPort.Mask)
	host.PutUint16(b[40:], family)
	b[42] = uint8(max(s.Dst.Bits(), 0)) // Bits is -1 for a prefix that is not set
	b[43] = uint8(max(s.Src.Bits(), 0))
	b[44] = s.Protocol
	host.PutUint32(b[48:], uint32(s.Interface))
	host.PutUint32(b[52:], s.User)
	return nil
}

// putID writes a struct xfrm_id.
func putID(b []byte, dst netip.Addr, spi ipsec.SPI, proto uint8) {
	putAddr(b[0:], dst)
	putSPI(b[16:], spi)
	b[20] = proto
}

func putSPI(b []byte, spi ipsec.SPI) { binary.BigEndian.PutUint32(b, uint32(spi)) }

func putPort(b []byte, port uint16) { binary.BigEndian.PutUint16(b, port) }

// putLimits writes a struct xfrm_lifetime_cfg.
func putLimits(b []byte, l *LifetimeConfig) {
	for i, v := range [...]uint64{
		l.SoftBytes, l.HardBytes, l.SoftPackets, l.HardPackets, l.SoftAdd, l.HardAdd, l.SoftUse, l.HardUse,
	} {
		host.PutUint64(b[8*i:], v)
	}
}

// putCurrent writes a struct xfrm_lifetime_cur.
func putCurrent(b []byte, c *LifetimeCurrent) {
	for i, v := range [...]uint64{c.Bytes, c.Packets, c.AddTime, c.UseTime} {
		host.PutUint64(b[8*i:], v)
	}
}

func putMark(b []byte, m *Mark) {
	host.PutUint32(b[0:], m.Value)
	host.PutUint32(b[4:], m.Mask)
}

// putOffload adds a struct xfrm_user_offload, if there is one.
func putOffload(p *payload, o *Offload) {
	if o == nil {
		return
	}
	b := p.attr(attrOffload, sizeOffload)
	host.PutUint32(b[0:], uint32(o.Ifindex))
	b[4] = uint8(o.Flags)
}
