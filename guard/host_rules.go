package guard

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

var hostTable = table{unix.NFPROTO_INET, "espalier"}

// The host's guard looks at packets where they come into the IP stack, before anything is put together
// from fragments or translated (NF_IP_PRI_CONNTRACK_DEFRAG is -400), and where they leave it, when
// nothing can change them any more: behind postrouting there is only the device, whoever made the packet.
var (
	hostIn = side{name: "in", hook: "prerouting", counter: ingress.counter, number: unix.NF_INET_PRE_ROUTING, priority: -1000,
		directions: ingress.directions}
	hostOut = side{name: "out", hook: "postrouting", counter: egress.counter, number: unix.NF_INET_POST_ROUTING, priority: 1000,
		directions: egress.directions, sends: true, whole: true}
)

// Not in the library (linux/netfilter/nf_tables.h).
const (
	metaSecpath expr.MetaKey = 25 // NFT_META_SECPATH: an SA has decrypted it
	rtIPsec     expr.RtKey   = 4  // NFT_RT_XFRM: an SA is going to encrypt it
)

// handedOver marks packets that are on their way to a NIC that encrypts and frames them.
const handedOver = 0xe5b0ffff

// hostChain is the chain at the hook of one SPD: the kernel's, or that of the userspace engine behind a device.
func (s *side) hostChain(device string, offloaded []*ranked, detours []Detour) chain {
	c := chain{name: s.hook, hook: &hook{s.number, s.priority}}
	name, kind := expr.MetaKeyIIFNAME, expr.MetaKeyIIFTYPE
	if s.sends {
		name, kind = expr.MetaKeyOIFNAME, expr.MetaKeyOIFTYPE
	}
	loopback := binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_LOOPBACK)
	c.add(match(nil).meta(kind).compare(equal, loopback).accept(), "never on a wire")
	switch {
	case device != "":
		padded := make([]byte, unix.IFNAMSIZ)
		copy(padded, device)
		c.add(match(nil).meta(name).compare(notEqual, padded).accept(), "another device")
	case s.sends:
		s.addHandedOver(&c, offloaded)
		c.add(match(nil).toBeEncrypted(1).accept(), "to be encrypted")
	default:
		c.add(match(nil).meta(metaSecpath).compare(equal, []byte{1}).accept(), "decrypted")
	}
	for i := range detours {
		if detours[i].Device == device {
			s.addDetour(&c, &detours[i])
		}
	}
	for _, f := range families {
		c.add(f.start().move(s.familyChain(f)), "")
	}
	return c
}

func (m match) toBeEncrypted(yes byte) match {
	return m.with(&expr.Rt{Register: reg, Key: rtIPsec}).compare(equal, []byte{yes})
}

// addHandedOver knows again the packets that a NIC is to encrypt: Linux sends them through the stack
// a second time, as they are and no longer to be encrypted, since that has been seen to.
func (s *side) addHandedOver(c *chain, offloaded []*ranked) {
	if len(offloaded) == 0 {
		return
	}
	c.add(match(nil).toBeEncrypted(0).marked(handedOver, 0xffffffff).setMark(0).accept(), "handed over to the NIC")
	for _, e := range offloaded {
		for _, f := range families {
			if f.concerns(&e.Selector) {
				c.add(f.addresses(f.start().toBeEncrypted(1), e.Selector.Src, e.Selector.Dst).setMark(handedOver).accept(),
					"for the NIC: "+e.comment())
			}
		}
	}
}

func (m match) setMark(mark uint32) match {
	return m.with(
		&expr.Immediate{Register: reg, Data: binary.NativeEndian.AppendUint32(nil, mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg})
}
