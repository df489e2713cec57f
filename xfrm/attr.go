package xfrm

import (
	"fmt"

	"espalier/ipsec"
)

// Attribute types, XFRMA_* (uapi linux/xfrm.h).
const (
	attrAlgAuth       uint16 = 1
	attrAlgCrypt      uint16 = 2
	attrAlgComp       uint16 = 3
	attrEncap         uint16 = 4
	attrTmpl          uint16 = 5
	attrSA            uint16 = 6
	attrPolicy        uint16 = 7
	attrSecCtx        uint16 = 8
	attrLifetime      uint16 = 9
	attrReplayVal     uint16 = 10
	attrReplayThresh  uint16 = 11
	attrTimerThresh   uint16 = 12
	attrSrcAddr       uint16 = 13
	attrCoAddr        uint16 = 14
	attrLastUsed      uint16 = 15
	attrPolicyType    uint16 = 16
	attrMigrate       uint16 = 17
	attrAEAD          uint16 = 18
	attrKMAddress     uint16 = 19
	attrAlgAuthTrunc  uint16 = 20
	attrMark          uint16 = 21
	attrTFCPad        uint16 = 22
	attrReplayESN     uint16 = 23
	attrExtraFlags    uint16 = 24
	attrProto         uint16 = 25
	attrAddressFilter uint16 = 26
	attrPad           uint16 = 27
	attrOffload       uint16 = 28
	attrSetMark       uint16 = 29
	attrSetMarkMask   uint16 = 30
	attrIfID          uint16 = 31
	attrMappingThresh uint16 = 32
	attrSADir         uint16 = 33
	attrNATKeepalive  uint16 = 34
	attrPCPU          uint16 = 35

	attrIPTFSDropTime      uint16 = 36
	attrIPTFSReorderWindow uint16 = 37
	attrIPTFSDontFragment  uint16 = 38
	attrIPTFSInitDelay     uint16 = 39
	attrIPTFSMaxQueue      uint16 = 40
	attrIPTFSPacketSize    uint16 = 41

	attrSADCount   uint16 = 1 // inside NEWSADINFO
	attrSADHash    uint16 = 2
	attrSPDInfo    uint16 = 1 // inside NEWSPDINFO
	attrSPDHash    uint16 = 2
	attrSPDThresh4 uint16 = 3
	attrSPDThresh6 uint16 = 4
)

// invalid and unsupported are errors that say what is wrong first and wrap the sentinel.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ipsec.ErrInvalid)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ipsec.ErrUnsupported)...)
}

// eachAttr calls f for every attribute of b, with data that points into b.
func eachAttr(b []byte, f func(typ uint16, data []byte) error) error {
	const headerLen, typeMask = 4, 1<<14 - 1 // struct nlattr, NLA_TYPE_MASK
	for len(b) >= headerLen {
		n := int(host.Uint16(b))
		if n < headerLen || n > len(b) {
			return invalid("attributes: one of %d bytes in the %d that are left", n, len(b))
		}
		if err := f(host.Uint16(b[2:])&typeMask, b[headerLen:n:n]); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	if len(b) > 0 {
		return invalid("attributes: %d bytes are left", len(b))
	}
	return nil
}

// need checks the size of an attribute's data; data may be longer, as the kernel allows.
func need(name string, data []byte, n int) error {
	if len(data) < n {
		return invalid("%s: %d bytes, too few for %d", name, len(data), n)
	}
	return nil
}

// needHeader checks that a payload holds its fixed struct.
func needHeader(name string, b []byte, n int) error {
	if len(b) < n {
		return invalid("message of %d bytes, too short for struct %s (%d)", len(b), name, n)
	}
	return nil
}
