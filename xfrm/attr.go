package xfrm

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"

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
	attrReplayVal     uint16 = 10
	attrSrcAddr       uint16 = 13
	attrCoAddr        uint16 = 14
	attrLastUsed      uint16 = 15
	attrPolicyType    uint16 = 16
	attrAEAD          uint16 = 18
	attrAlgAuthTrunc  uint16 = 20
	attrMark          uint16 = 21
	attrTFCPad        uint16 = 22
	attrReplayESN     uint16 = 23
	attrExtraFlags    uint16 = 24
	attrProto         uint16 = 25
	attrAddressFilter uint16 = 26
	attrOffload       uint16 = 28
	attrSetMark       uint16 = 29
	attrSetMarkMask   uint16 = 30
	attrIfID          uint16 = 31
	attrSADir         uint16 = 33
	attrNATKeepalive  uint16 = 34
	attrPCPU          uint16 = 35
	attrSADCount      uint16 = 1 // inside NEWSADINFO
	attrSADHash       uint16 = 2
	attrSPDInfo       uint16 = 1 // inside NEWSPDINFO
	attrSPDHash       uint16 = 2
)

// foreignAttr names an attribute that changes what an SA or policy does and that State and
// Policy have no field for; "" for all others.
func foreignAttr(typ uint16) string {
	switch typ {
	case attrAlgAuth:
		return "authentication algorithm (XFRMA_ALG_AUTH)"
	case attrAlgAuthTrunc:
		return "authentication algorithm (XFRMA_ALG_AUTH_TRUNC)"
	case attrAlgCrypt:
		return "encryption algorithm (XFRMA_ALG_CRYPT)"
	case attrAlgComp:
		return "compression (XFRMA_ALG_COMP)"
	case attrSecCtx:
		return "security context (XFRMA_SEC_CTX)"
	case attrCoAddr:
		return "care-of address (XFRMA_COADDR)"
	case attrNATKeepalive:
		return "NAT keepalive (XFRMA_NAT_KEEPALIVE_INTERVAL)"
	case attrPCPU:
		return "per-CPU SA (XFRMA_SA_PCPU)"
	}
	return ""
}

// invalid and unsupported are errors that say what is wrong first and wrap the sentinel.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ipsec.ErrInvalid)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ipsec.ErrUnsupported)...)
}

// eachAttr calls f for every attribute of b, with data that f may keep. Secrets passing
// through are f's to wipe.
func eachAttr(b []byte, f func(typ uint16, data []byte) error) error {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return invalid("attributes: %v", err)
	}
	for ad.Next() {
		typ := ad.Type()
		ad.Do(func(data []byte) error { return f(typ, data) })
	}
	// What f returned comes back through Err and carries its sentinel already.
	if err := ad.Err(); err != nil {
		if errors.Is(err, ipsec.ErrInvalid) {
			return err
		}
		return invalid("attributes: %v", err)
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
