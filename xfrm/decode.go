package xfrm

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// getAddr reads an xfrm_address_t of a family; of AF_UNSPEC it is the zero Addr.
func getAddr(b []byte, family uint16) netip.Addr {
	switch family {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(b))
	case unix.AF_INET6:
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.Addr{}
}

func getSPI(b []byte) ipsec.SPI { return ipsec.SPI(binary.BigEndian.Uint32(b)) }

func getPort(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

// checkFamily refuses what is not an address family of IP.
func checkFamily(family uint16) error {
	if family != unix.AF_INET && family != unix.AF_INET6 {
		return invalid("address family %d", family)
	}
	return nil
}

// getSelector reads a struct xfrm_selector. Addresses without a family are of the family
// given, that of the SA they stand in: so the kernel sends a larval SA. Where none can be
// given (AF_UNSPEC) they are refused: guessing would make the selector match something else.
func getSelector(b []byte, implied uint16) (Selector, error) {
	s := Selector{Family: host.Uint16(b[40:]), User: host.Uint32(b[52:])}
	s.DstPort = ipsec.PortMatch{Value: getPort(b[32:]), Mask: getPort(b[34:])}
	s.SrcPort = ipsec.PortMatch{Value: getPort(b[36:]), Mask: getPort(b[38:])}
	s.Protocol = b[44]
	ifindex := int32(host.Uint32(b[48:]))
	if ifindex < 0 {
		return Selector{}, invalid("selector: interface index %d", ifindex)
	}
	s.Interface = int(ifindex)
	if s.Family == unix.AF_UNSPEC {
		if allZero(b[0:32]) && b[42] == 0 && b[43] == 0 {
			return s, nil
		}
		if implied == unix.AF_UNSPEC {
			return Selector{}, invalid("selector: addresses without a family")
		}
		s.Family = implied
	}
	if err := checkFamily(s.Family); err != nil {
		return Selector{}, invalid("selector: address family %d", s.Family)
	}
	s.Dst = netip.PrefixFrom(getAddr(b[0:16], s.Family), int(b[42]))
	s.Src = netip.PrefixFrom(getAddr(b[16:32], s.Family), int(b[43]))
	if !s.Dst.IsValid() || !s.Src.IsValid() {
		return Selector{}, invalid("selector: prefix lengths %d and %d", b[43], b[42])
	}
	return s, nil
}

// getLimits reads a struct xfrm_lifetime_cfg.
func getLimits(b []byte) (l LifetimeConfig) {
	for i, p := range [...]*uint64{
		&l.SoftBytes, &l.HardBytes, &l.SoftPackets, &l.HardPackets, &l.SoftAdd, &l.HardAdd, &l.SoftUse, &l.HardUse,
	} {
		*p = host.Uint64(b[8*i:])
	}
	return l
}

// getCurrent reads a struct xfrm_lifetime_cur.
func getCurrent(b []byte) (c LifetimeCurrent) {
	for i, p := range [...]*uint64{&c.Bytes, &c.Packets, &c.AddTime, &c.UseTime} {
		*p = host.Uint64(b[8*i:])
	}
	return c
}

// getMark reads the data of an XFRMA_MARK.
func getMark(data []byte) (*Mark, error) {
	if err := need("XFRMA_MARK", data, 8); err != nil {
		return nil, err
	}
	return &Mark{Value: host.Uint32(data), Mask: host.Uint32(data[4:])}, nil
}

// getOffload reads the data of an XFRMA_OFFLOAD_DEV.
func getOffload(data []byte) (*Offload, error) {
	if err := need("XFRMA_OFFLOAD_DEV", data, sizeOffload); err != nil {
		return nil, err
	}
	return &Offload{Ifindex: int32(host.Uint32(data)), Flags: OffloadFlag(data[4])}, nil
}

// getUint32 reads a number's attribute.
func getUint32(name string, data []byte, to *uint32) error {
	if err := need(name, data, 4); err != nil {
		return err
	}
	*to = host.Uint32(data)
	return nil
}

// getOptionalUint32 reads a number for which 0 is not the same as none.
func getOptionalUint32(name string, data []byte) (*uint32, error) {
	v := new(uint32)
	if err := getUint32(name, data, v); err != nil {
		return nil, err
	}
	return v, nil
}

// getLifetime reads the data of an XFRMA_LTIME_VAL.
func getLifetime(data []byte, to *LifetimeCurrent) error {
	if err := need("XFRMA_LTIME_VAL", data, 32); err != nil {
		return err
	}
	*to = getCurrent(data)
	return nil
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
