package probe

import (
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
)

// These tests hold decoders against messages with the numbers of linux/if_link.h, linux/if_bonding.h
// and linux/devlink.h written out: not every kernel has bonds, or a NIC with functions.

func encode(t *testing.T, header int, attrs func(*netlink.AttributeEncoder)) []byte {
	t.Helper()
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	b, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return append(make([]byte, header), b...)
}

func TestDecodeLink(t *testing.T) {
	for mode, want := range map[uint8]string{0: "balance-rr", 1: "active-backup", 2: "balance-xor", 3: "broadcast", 4: "802.3ad", 5: "balance-tlb", 6: "balance-alb", 9: "mode 9"} {
		l, err := decodeLink(encode(t, 16, func(ae *netlink.AttributeEncoder) {
			ae.String(3, "bond0") // IFLA_IFNAME
			ae.Uint32(4, 9000)    // IFLA_MTU
			ae.Nested(18, func(ae *netlink.AttributeEncoder) error {
				ae.String(1, "bond")
				ae.Nested(2, func(ae *netlink.AttributeEncoder) error { ae.Uint8(1, mode); return nil })
				return nil
			})
		}))
		if err != nil || l.Name != "bond0" || l.Kind != "bond" || l.BondMode != want || l.MTU != 9000 {
			t.Errorf("mode %d: %+v, %v", mode, l, err)
		}
	}
	l, err := decodeLink(encode(t, 16, func(ae *netlink.AttributeEncoder) {
		ae.String(3, "p4p1.100")
		ae.Uint32(5, 7)                  // IFLA_LINK
		ae.Uint32(10, 8)                 // IFLA_MASTER
		ae.Bytes(36, []byte{0xb8, 0x3f}) // IFLA_PHYS_SWITCH_ID
		ae.String(38, "pf0vf1")          // IFLA_PHYS_PORT_NAME
		ae.String(56, "0000:3b:00.0")    // IFLA_PARENT_DEV_NAME
		ae.String(57, "pci")
		ae.Nested(18, func(ae *netlink.AttributeEncoder) error {
			ae.String(1, "vlan")
			ae.Nested(2, func(ae *netlink.AttributeEncoder) error { ae.Uint16(1, 100); return nil })
			return nil
		})
	}))
	if err != nil || l.VLAN != 100 || l.Lower != 7 || l.Elsewhere || l.Master != 8 || l.SwitchID != "b83f" || l.PhysPort != "pf0vf1" || l.Parent != "0000:3b:00.0" || l.ParentBus != "pci" {
		t.Errorf("%+v, %v", l, err)
	}
	if !isRepresentor(&device{Link: l}) {
		t.Error("no representor")
	}
	for _, port := range []string{"p0", "p1", "p0s0", ""} {
		if isRepresentor(&device{Link: Link{SwitchID: "b83f", PhysPort: port}}) {
			t.Errorf("uplink %q is a representor", port)
		}
	}
	l, err = decodeLink(encode(t, 16, func(ae *netlink.AttributeEncoder) {
		ae.Nested(18, func(ae *netlink.AttributeEncoder) error {
			ae.String(1, "xfrm")
			ae.Nested(2, func(ae *netlink.AttributeEncoder) error { ae.Uint32(1, 4); ae.Uint32(2, 7); return nil })
			return nil
		})
	}))
	if err != nil || l.Kind != "xfrm" || l.IfID != 7 {
		t.Errorf("%+v, %v", l, err)
	}
	if _, err := decodeLink(make([]byte, 15)); err == nil {
		t.Error("a short message was decoded")
	}
}

func TestDecodeDevlinkPort(t *testing.T) {
	for _, c := range []struct {
		values, known  uint32 // ROCE 1, MIGRATABLE 2, IPSEC_CRYPTO 4, IPSEC_PACKET 8
		crypto, packet Answer
	}{
		{0, 0, Unknown, Unknown}, {1, 3, Unknown, Unknown}, {0, 15, No, No}, {4, 15, Yes, No}, {8, 12, No, Yes}, {12, 4, Yes, Unknown},
	} {
		of, p, err := decodeDevlinkPort(encode(t, 4, func(ae *netlink.AttributeEncoder) {
			ae.String(1, "pci")
			ae.String(2, "0000:3b:00.0")
			ae.Uint32(3, 32768)
			ae.String(7, "en3f0pf0sf88")
			ae.Uint16(77, 7) // flavour: SF
			ae.Uint16(127, 1)
			ae.Uint16(128, 5)
			ae.Uint32(164, 88)
			ae.Nested(145, func(ae *netlink.AttributeEncoder) error {
				caps := binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, c.values), c.known)
				ae.Bytes(4, caps)
				return nil
			})
		}))
		want := DevlinkPort{Index: 32768, Flavour: "pcisf", Device: "en3f0pf0sf88", PF: 1, VF: 5, SF: 88, IPsecCrypto: c.crypto, IPsecPacket: c.packet}
		if err != nil || of.Bus != "pci" || of.Device != "0000:3b:00.0" || p != want {
			t.Errorf("%+v %+v, %v, want %+v", of, p, err, want)
		}
	}
	for n, want := range map[uint16]string{0: "legacy", 1: "switchdev", 7: "mode 7"} {
		if got := eswitchMode(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
