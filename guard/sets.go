package guard

import (
	"slices"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// in tests whether the addresses of a packet, and its ports if they count, are in the set; or with
// not, that they are not. Where ports count its protocol must have been tested before. Ports that
// cannot be read are neither.
func (s *set) in(m match, not bool) match {
	f := s.family
	register := uint32(unix.NFT_REG32_00)
	load := func(base expr.PayloadBase, at, length uint32, mask []byte) {
		m = m.with(&expr.Payload{DestRegister: register, Base: base, Offset: at, Len: length})
		if slices.ContainsFunc(mask, func(b byte) bool { return b != 0xff }) {
			m = m.with(&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: length, Mask: mask, Xor: make([]byte, length)})
		}
		register += (length + 3) / 4
	}
	if n := s.shape.srcBits; n > 0 {
		load(expr.PayloadBaseNetworkHeader, f.srcAt, uint32(f.addrLen), f.mask(int(n)))
	}
	if n := s.shape.dstBits; n > 0 {
		load(expr.PayloadBaseNetworkHeader, f.dstAt, uint32(f.addrLen), f.mask(int(n)))
	}
	src, dst, _ := portFields(s.shape.protocol)
	if mask := s.shape.srcPort; mask != 0 {
		load(expr.PayloadBaseTransportHeader, src.offset, src.length, be16(mask))
	}
	if mask := s.shape.dstPort; mask != 0 {
		load(expr.PayloadBaseTransportHeader, dst.offset, dst.length, be16(mask))
	}
	if s.shape.spi {
		load(expr.PayloadBaseTransportHeader, 0, spiLen, nil)
	}
	return m.with(&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: s.name, Invert: not})
}

// setWord begins the comment of a rule that looks into a set; its elements have the comments that
// rules have otherwise.
const setWord = "set "

// fields are the parts of the set's keys.
func (s *set) fields() (addresses, ports int) {
	for _, bits := range []uint8{s.shape.srcBits, s.shape.dstBits} {
		if bits > 0 {
			addresses++
		}
	}
	for _, mask := range []uint16{s.shape.srcPort, s.shape.dstPort} {
		if mask != 0 {
			ports++
		}
	}
	return addresses, ports
}

// keyLen is the length of the set's keys in bytes.
func (s *set) keyLen() int {
	addresses, ports := s.fields()
	n := addresses*s.family.addrLen + ports*4
	if s.shape.spi {
		n += spiLen
	}
	return n
}

const spiLen = 4 // in bytes

// keyType is how nft prints the keys: the numbers for addresses of the family and for ports, one
// behind the other with six bits each (libnftables datatype.h).
func (s *set) keyType() (all uint32) {
	const typeBits, ipv4Addr, ipv6Addr, inetService = 6, 7, 8, 13
	one := uint32(ipv4Addr)
	if s.family == &ipv6 {
		one = ipv6Addr
	}
	addresses, ports := s.fields()
	for range addresses {
		all = all<<typeBits | one
	}
	for range ports {
		all = all<<typeBits | inetService
	}
	if s.shape.spi {
		all = all<<typeBits | ipv4Addr // there is no type of its own; this one has the length and the byte order
	}
	return all
}

// set adds an empty set.
func (t *tableRequests) set(s *set, id uint32) {
	t.add(unix.NFT_MSG_NEWSET, netlink.Create, "set "+s.name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_TABLE, t.of.name)
		ae.String(unix.NFTA_SET_NAME, s.name)
		ae.Uint32(unix.NFTA_SET_FLAGS, 0)
		ae.Uint32(unix.NFTA_SET_KEY_TYPE, s.keyType())
		ae.Uint32(unix.NFTA_SET_KEY_LEN, uint32(s.keyLen()))
		ae.Uint32(unix.NFTA_SET_ID, id)
	})
}

// element is a change of a set.
type element struct {
	set    *set
	key    key
	entry  *ranked
	remove bool
}

// elementsAtOnce is how many elements a message takes, whose list must stay below 64 KiB.
const elementsAtOnce = 200

// elements makes changes of sets, in their order.
func (t *tableRequests) elements(all []element) {
	for len(all) > 0 {
		n := 1
		for n < len(all) && n < elementsAtOnce && all[n].set == all[0].set && all[n].remove == all[0].remove {
			n++
		}
		some := all[:n]
		all = all[n:]
		kind, flags := uint16(unix.NFT_MSG_NEWSETELEM), netlink.Create
		if some[0].remove {
			kind, flags = unix.NFT_MSG_DELSETELEM, 0
		}
		t.add(kind, flags, "elements of set "+some[0].set.name, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.of.name)
			ae.String(unix.NFTA_SET_ELEM_LIST_SET, some[0].set.name)
			ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(ae *netlink.AttributeEncoder) error {
				for i := range some {
					ae.Nested(unix.NFTA_LIST_ELEM, some[i].encode)
				}
				return nil
			})
		})
	}
}

func (e *element) encode(ae *netlink.AttributeEncoder) error {
	ae.Nested(unix.NFTA_SET_ELEM_KEY, func(ae *netlink.AttributeEncoder) error {
		ae.Bytes(unix.NFTA_DATA_VALUE, []byte(e.key))
		return nil
	})
	if e.entry != nil {
		ae.Bytes(unix.NFTA_SET_ELEM_USERDATA, encodeUserdata(e.entry.comment()))
	}
	return nil
}

// readElements reads the comments of a set's elements.
func (c *conn) readElements(t table, set string) (comments []string, err error) {
	msgs, err := c.elementsOf(t, set)
	for _, m := range msgs {
		some, err := decodeElements(m)
		if err != nil {
			return nil, err
		}
		comments = append(comments, some...)
	}
	return comments, err
}

// elementsOf are the messages with a set's elements.
func (c *conn) elementsOf(t table, set string) ([]netlink.Message, error) {
	r := request{family: t.family, kind: unix.NFT_MSG_GETSETELEM, flags: netlink.Dump, what: "set " + set, attrs: func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.name)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	}}
	return c.ask(&r)
}

// decodeElements are the comments of a message's elements.
func decodeElements(m netlink.Message) (comments []string, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return
		}
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				comments = append(comments, "")
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if ad.Type() == unix.NFTA_SET_ELEM_USERDATA {
							comments[len(comments)-1] = decodeUserdata(ad.Bytes())
						}
					}
					return nil
				})
			}
			return nil
		})
	})
	return comments, err
}
