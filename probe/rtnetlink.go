package probe

import (
	"encoding/hex"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Links dumps the links and their addresses.
func (kernelNetwork) Links() ([]Link, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	defer c.Close()
	// The filter spares the counters, which are most of the answer.
	msgs, err := dump(c, unix.RTM_GETLINK, unix.SizeofIfInfomsg, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_EXT_MASK, rtextFilterSkipStats)
	})
	if err != nil {
		return nil, fmt.Errorf("list network devices: %w", err)
	}
	var links []Link
	at := make(map[int]int)
	for _, m := range msgs {
		link, err := decodeLink(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list network devices: %w", err)
		}
		at[link.Index] = len(links)
		links = append(links, link)
	}
	msgs, err = dump(c, unix.RTM_GETADDR, unix.SizeofIfAddrmsg, nil)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, m := range msgs {
		index, prefix, err := decodeAddress(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		if i, ok := at[index]; ok && prefix.IsValid() {
			links[i].Addresses = append(links[i].Addresses, prefix)
		}
	}
	return links, nil
}

// IFLA_XFRM_IF_ID (linux/if_link.h).
const iflaXfrmIfID = 2

// RTEXT_FILTER_SKIP_STATS (linux/rtnetlink.h).
const rtextFilterSkipStats = 1 << 3

// dump asks for all objects of a kind, behind a header of zeros.
func dump(c *netlink.Conn, kind netlink.HeaderType, header int, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	data, err := payload(make([]byte, header), attrs)
	if err != nil {
		return nil, err
	}
	return c.Execute(netlink.Message{Header: netlink.Header{Type: kind, Flags: netlink.Request | netlink.Dump}, Data: data})
}

// payload is a header with attributes behind it, if any.
func payload(header []byte, attrs func(*netlink.AttributeEncoder)) ([]byte, error) {
	if attrs == nil {
		return header, nil
	}
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	b, err := ae.Encode()
	return append(header, b...), err
}

// behind returns a decoder of the attributes behind a header.
func behind(data []byte, header int) (*netlink.AttributeDecoder, error) {
	if len(data) < header {
		return nil, fmt.Errorf("a message of %d bytes, shorter than its header", len(data))
	}
	return netlink.NewAttributeDecoder(data[header:])
}

func decodeLink(data []byte) (Link, error) {
	var l Link
	ad, err := behind(data, unix.SizeofIfInfomsg)
	if err != nil {
		return l, err
	}
	order := ad.ByteOrder
	flags := order.Uint32(data[8:])
	l.Index = int(int32(order.Uint32(data[4:])))
	l.Loopback = flags&unix.IFF_LOOPBACK != 0
	l.Up = flags&unix.IFF_UP != 0
	l.Carrier = flags&unix.IFF_LOWER_UP != 0
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			l.Name = ad.String()
		case unix.IFLA_MTU:
			l.MTU = int(int32(ad.Uint32()))
		case unix.IFLA_LINK:
			l.Lower = int(int32(ad.Uint32()))
		case unix.IFLA_LINK_NETNSID:
			l.Elsewhere = true
		case unix.IFLA_MASTER:
			l.Master = int(int32(ad.Uint32()))
		case unix.IFLA_PHYS_PORT_NAME:
			l.PhysPort = ad.String()
		case unix.IFLA_PHYS_SWITCH_ID:
			l.SwitchID = hex.EncodeToString(ad.Bytes())
		case unix.IFLA_PARENT_DEV_NAME:
			l.Parent = ad.String()
		case unix.IFLA_PARENT_DEV_BUS_NAME:
			l.ParentBus = ad.String()
		case unix.IFLA_LINKINFO:
			ad.Nested(func(ad *netlink.AttributeDecoder) error { return decodeLinkInfo(ad, &l) })
		}
	}
	if l.Lower == l.Index && !l.Elsewhere {
		l.Lower = 0 // some tunnels name themselves
	}
	return l, ad.Err()
}

// decodeLinkInfo takes the kind, and of its data what is asked for: the kernel sends the kind first.
func decodeLinkInfo(ad *netlink.AttributeDecoder, l *Link) error {
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_INFO_KIND:
			l.Kind = ad.String()
		case unix.IFLA_INFO_DATA:
			switch l.Kind {
			case "vlan":
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if ad.Type() == unix.IFLA_VLAN_ID {
							l.VLAN = ad.Uint16()
						}
					}
					return nil
				})
			case "xfrm":
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if ad.Type() == iflaXfrmIfID {
							l.IfID = ad.Uint32()
						}
					}
					return nil
				})
			case "bond":
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					for ad.Next() {
						if ad.Type() == unix.IFLA_BOND_MODE {
							l.BondMode = bondMode(ad.Uint8())
						}
					}
					return nil
				})
			}
		}
	}
	return nil
}

// bondModes are named as in linux/if_bonding.h and `ip link`.
var bondModes = [...]string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}

func bondMode(n uint8) string {
	if int(n) < len(bondModes) {
		return bondModes[n]
	}
	return fmt.Sprintf("mode %d", n)
}

// decodeAddress returns an invalid prefix for families other than IPv4 and IPv6. Of a
// point-to-point link IFA_LOCAL is this host's address, IFA_ADDRESS the peer's.
func decodeAddress(data []byte) (index int, prefix netip.Prefix, err error) {
	ad, err := behind(data, unix.SizeofIfAddrmsg)
	if err != nil {
		return 0, prefix, err
	}
	var local, address netip.Addr
	for ad.Next() {
		switch ad.Type() {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(ad.Bytes())
		}
	}
	if local.IsValid() {
		address = local
	}
	return int(int32(ad.ByteOrder.Uint32(data[4:]))), netip.PrefixFrom(address, int(data[1])), ad.Err()
}
