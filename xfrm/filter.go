package xfrm

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// protoAny is IPSEC_PROTO_ANY: ESP, AH and IPComp.
const protoAny = 255

// StateFilter selects states in a dump. The zero filter selects all. Proto, Src, Dst and
// Family travel with the request (XFRMA_PROTO, XFRMA_ADDRESS_FILTER); the engine may or
// may not apply them, and never sees the rest: whoever asks applies Match to the answer.
type StateFilter struct {
	Proto    uint8        // 0: any; 255: ESP, AH and IPComp
	Src, Dst netip.Prefix // the zero prefix matches any address
	Family   uint16       // AF_UNSPEC: that of Src and Dst, else any

	SPI   ipsec.SPI // 0: any
	Reqid uint32    // 0: any
	Mode  *Mode     // nil: any
	Flags StateFlag // all of these are set
}

// family is the address family the filter asks for.
func (f *StateFilter) family() (uint16, error) {
	return selectorFamily(&Selector{Selector: ipsec.Selector{Src: f.Src, Dst: f.Dst}, Family: f.Family})
}

// Match reports whether s is selected.
func (f *StateFilter) Match(s *State) bool {
	family, err := f.family()
	if err != nil {
		return false
	}
	if own, err := addrFamily(s.Dst); err != nil || family != unix.AF_UNSPEC && family != own {
		return false
	}
	return f.MatchProto(s.Proto) &&
		(!f.Src.IsValid() || f.Src.Contains(s.Src)) &&
		(!f.Dst.IsValid() || f.Dst.Contains(s.Dst)) &&
		(f.SPI == 0 || f.SPI == s.SPI) &&
		(f.Reqid == 0 || f.Reqid == s.Reqid) &&
		(f.Mode == nil || *f.Mode == s.Mode) &&
		s.Flags&f.Flags == f.Flags
}

// MatchProto reports whether states of an IP protocol are selected, as far as Proto says.
func (f *StateFilter) MatchProto(proto uint8) bool {
	switch f.Proto {
	case 0, proto:
		return true
	case protoAny:
		return proto == unix.IPPROTO_ESP || proto == unix.IPPROTO_AH || proto == unix.IPPROTO_COMP
	}
	return false
}

// EncodeStateFilter returns the payload of a GETSA dump. Errors wrap ipsec.ErrInvalid.
func EncodeStateFilter(f *StateFilter) ([]byte, error) {
	family, err := f.family()
	if err != nil {
		return nil, err
	}
	p := newPayload(0)
	if f.Proto != 0 {
		p.uint8(attrProto, f.Proto)
	}
	b := p.attr(attrAddressFilter, sizeAddressFilter) // of AF_UNSPEC it selects everything
	putAddr(b[0:], f.Src.Addr())
	putAddr(b[16:], f.Dst.Addr())
	host.PutUint16(b[32:], family)
	b[34] = uint8(max(f.Src.Bits(), 0))
	b[35] = uint8(max(f.Dst.Bits(), 0))
	return p, nil
}

// DecodeStateFilter reads the payload of a GETSA dump. Errors wrap ipsec.ErrInvalid.
func DecodeStateFilter(b []byte) (StateFilter, error) {
	var f StateFilter
	err := eachAttr(b, func(typ uint16, data []byte) error {
		switch typ {
		case attrProto:
			if err := need("XFRMA_PROTO", data, 1); err != nil {
				return err
			}
			f.Proto = data[0]
		case attrAddressFilter:
			return getAddressFilter(&f, data)
		}
		return nil
	})
	if err != nil {
		return StateFilter{}, err
	}
	return f, nil
}

// getAddressFilter reads a struct xfrm_address_filter. iproute2 sends one of AF_UNSPEC and
// no addresses when it wants everything.
func getAddressFilter(f *StateFilter, data []byte) error {
	const name = "XFRMA_ADDRESS_FILTER"
	if err := need(name, data, sizeAddressFilter); err != nil {
		return err
	}
	f.Family = host.Uint16(data[32:])
	if f.Family == unix.AF_UNSPEC {
		f.Src, f.Dst = netip.Prefix{}, netip.Prefix{}
		if data[34] != 0 || data[35] != 0 {
			return invalid("%s: addresses without a family", name)
		}
		return nil
	}
	if err := checkFamily(f.Family); err != nil {
		return invalid("%s: address family %d", name, f.Family)
	}
	f.Src = netip.PrefixFrom(getAddr(data[0:16], f.Family), int(data[34]))
	f.Dst = netip.PrefixFrom(getAddr(data[16:32], f.Family), int(data[35]))
	if !f.Src.IsValid() || !f.Dst.IsValid() {
		return invalid("%s: prefix lengths %d and %d", name, data[34], data[35])
	}
	return nil
}
