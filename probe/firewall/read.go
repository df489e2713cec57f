package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Read dumps the rules that packets from and to this host may meet, in the calling thread's network
// namespace: not those of tables that only forward or translate addresses, which are most on hosts of
// containers. A kernel without nf_tables has none. It takes CAP_NET_ADMIN.
func Read() ([]Chain, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: dumpBuffer})
	if err != nil {
		return nil, fmt.Errorf("list nftables rules: %w", err)
	}
	defer c.Close()
	r := kernelReader{conn: c}
	chains, err := r.chains()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) { // no such subsystem
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables rules: %w", err)
	}
	return chains, nil
}

type kernelReader struct{ conn *netlink.Conn }

// dumpBuffer is as much as the kernel puts into one datagram of a dump, in bytes, and more: it goes by what the
// receiver has room for. For each datagram it walks through all rules from the first, so that few are what a
// dump of many takes.
const dumpBuffer = 64 << 10

// nfgenmsg is the size of struct nfgenmsg: family, version, resource.
const nfgenmsg = 4

// dump asks for all objects of a kind, of one family or, with NFPROTO_UNSPEC, of all.
func (r kernelReader) dump(kind uint16, family uint8, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	data := []byte{family, 0, 0, 0}
	if attrs != nil {
		ae := netlink.NewAttributeEncoder()
		attrs(ae)
		b, err := ae.Encode()
		if err != nil {
			return nil, err
		}
		data = append(data, b...)
	}
	return r.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   data,
	})
}

// chains reads tables, chains and rules. Tables that sleep are left out.
func (r kernelReader) chains() ([]Chain, error) {
	msgs, err := r.dump(unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return nil, err
	}
	asleep := make(map[string]bool)
	for _, m := range msgs {
		table, dormant, err := decodeTable(m.Data)
		if err != nil {
			return nil, err
		}
		asleep[table] = dormant
	}
	if msgs, err = r.dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, nil); err != nil {
		return nil, err
	}
	var chains []Chain
	at := make(map[string]int)
	for _, m := range msgs {
		c, err := decodeChain(m.Data)
		if err != nil {
			return nil, err
		}
		if !asleep[c.Family+" "+c.Table] {
			at[c.String()] = len(chains)
			chains = append(chains, c)
		}
	}
	for i := range chains {
		if chains[i].filters() {
			if err := r.rules(chains, i, at); err != nil {
				return nil, err
			}
		}
	}
	return chains, nil
}

// rules reads those of a chain, and of all that it leads to.
func (r kernelReader) rules(chains []Chain, first int, at map[string]int) error {
	for waiting := []int{first}; len(waiting) > 0; {
		c := &chains[waiting[0]]
		waiting = waiting[1:]
		if c.Rules != nil {
			continue
		}
		msgs, err := r.dump(unix.NFT_MSG_GETRULE, familyNumber(c.Family), func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_RULE_TABLE, c.Table)
			ae.String(unix.NFTA_RULE_CHAIN, c.Name)
		})
		if err != nil {
			return err
		}
		c.Rules = make([]Rule, 0, len(msgs))
		for _, m := range msgs {
			of, rules, err := decodeRule(m.Data, r.elements)
			if err != nil {
				return err
			}
			if of.Table != c.Table || of.Name != c.Name { // of a kernel that does not select
				continue
			}
			for _, rule := range rules {
				if i, ok := at[c.Family+" "+c.Table+" "+rule.To]; ok && rule.To != "" {
					waiting = append(waiting, i)
				}
			}
			c.Rules = append(c.Rules, rules...)
		}
	}
	return nil
}

// filters tells whether packets from or to this host come to a base chain that may drop them.
func (c *Chain) filters() bool {
	return c.Type != "nat" && c.Hook != "" && c.Hook != "forward" && c.Family != "arp" && c.Family != "bridge"
}

// nftFamilies are the numbers of families (linux/netfilter.h).
var nftFamilies = map[uint8]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6",
	unix.NFPROTO_ARP: "arp", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge",
}

func familyNumber(name string) uint8 {
	for n, f := range nftFamilies {
		if f == name {
			return n
		}
	}
	return unix.NFPROTO_UNSPEC
}

// behind returns a decoder of the attributes behind a header.
func behind(data []byte, header int) (*netlink.AttributeDecoder, error) {
	if len(data) < header {
		return nil, fmt.Errorf("a message of %d bytes, shorter than its header", len(data))
	}
	return netlink.NewAttributeDecoder(data[header:])
}

// nftDecoder decodes the attributes behind nfgenmsg, whose numbers are big-endian.
func nftDecoder(data []byte) (family string, ad *netlink.AttributeDecoder, err error) {
	if ad, err = behind(data, nfgenmsg); err != nil {
		return "", nil, err
	}
	ad.ByteOrder = binary.BigEndian
	return nftFamilies[data[0]], ad, nil
}

func decodeTable(data []byte) (table string, dormant bool, err error) {
	family, ad, err := nftDecoder(data)
	if err != nil {
		return "", false, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			table = family + " " + ad.String()
		case unix.NFTA_TABLE_FLAGS:
			dormant = ad.Uint32()&nftTableDormant != 0
		}
	}
	return table, dormant, ad.Err()
}

// linux/netfilter/nf_tables.h
const (
	nftTableDormant = 1
	nftaHookDevices = 4
	nftaDeviceName  = 1
	nftMetaSecpath  = 25
)

func decodeChain(data []byte) (Chain, error) {
	var c Chain
	family, ad, err := nftDecoder(data)
	if err != nil {
		return c, err
	}
	c.Family = family
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_CHAIN_TABLE:
			c.Table = ad.String()
		case unix.NFTA_CHAIN_NAME:
			c.Name = ad.String()
		case unix.NFTA_CHAIN_TYPE:
			c.Type = ad.String()
		case unix.NFTA_CHAIN_POLICY:
			c.Drops = ad.Uint32() == nfDrop
		case unix.NFTA_CHAIN_HOOK:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					switch ad.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						c.Hook = hookName(c.Family, ad.Uint32())
					case unix.NFTA_HOOK_DEV:
						c.Devices = append(c.Devices, ad.String())
					case nftaHookDevices:
						c.Devices = nil // these are all of them
						ad.Nested(func(ad *netlink.AttributeDecoder) error {
							for ad.Next() {
								if ad.Type() == nftaDeviceName {
									c.Devices = append(c.Devices, ad.String())
								}
							}
							return nil
						})
					}
				}
				return nil
			})
		}
	}
	return c, ad.Err()
}

// hookName is the kernel's number of a hook (enum nf_inet_hooks, enum nf_dev_hooks) as nft has it.
func hookName(family string, n uint32) string {
	names := []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	if family == "netdev" {
		names = []string{"ingress", "egress"}
	}
	if n < uint32(len(names)) {
		return names[n]
	}
	return fmt.Sprintf("hook %d", n)
}

// element of a set or map.
type element struct {
	key     []byte
	last    []byte // of a concatenation of ranges
	ends    bool   // the first key that a range no longer has
	verdict string
	to      string
}

// elements reads a set.
func (r kernelReader) elements(family, table, set string) ([]element, error) {
	msgs, err := r.dump(unix.NFT_MSG_GETSETELEM, familyNumber(family), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	})
	if errors.Is(err, unix.ENOENT) { // it went meanwhile
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", set, err)
	}
	var all []element
	for _, m := range msgs {
		elements, err := decodeElements(m.Data)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", set, err)
		}
		all = append(all, elements...)
	}
	return all, nil
}

func decodeElements(data []byte) ([]element, error) {
	_, ad, err := nftDecoder(data)
	if err != nil {
		return nil, err
	}
	var all []element
	for ad.Next() {
		if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		ad.Nested(func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				ad.Nested(func(ad *netlink.AttributeDecoder) error {
					e, err := decodeElement(ad)
					all = append(all, e)
					return err
				})
			}
			return nil
		})
	}
	return all, ad.Err()
}

// nftaSetElementKeyEnd is NFTA_SET_ELEM_KEY_END, nftElementEnds NFT_SET_ELEM_INTERVAL_END.
const (
	nftaSetElementKeyEnd = 10
	nftElementEnds       = 1
)

func decodeElement(ad *netlink.AttributeDecoder) (element, error) {
	var e element
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			e.key = nested(ad.Bytes())
		case nftaSetElementKeyEnd:
			e.last = nested(ad.Bytes())
		case unix.NFTA_SET_ELEM_FLAGS:
			e.ends = ad.Uint32()&nftElementEnds != 0
		case unix.NFTA_SET_ELEM_DATA:
			e.verdict, e.to = verdict(ad.Bytes())
		}
	}
	return e, nil
}

// nfDrop and nfAccept are verdicts of linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

// verdict is the one in a nested NFTA_DATA, "" if there is none.
func verdict(list []byte) (word, to string) {
	for kind, value := range attributes(list) {
		if kind != unix.NFTA_DATA_VERDICT {
			continue
		}
		for kind, value := range attributes(value) {
			switch kind {
			case unix.NFTA_VERDICT_CODE:
				word = verdictWord(int32(big(value)))
			case unix.NFTA_VERDICT_CHAIN:
				to = text(value)
			}
		}
	}
	return word, to
}

func verdictWord(code int32) string {
	switch code {
	case nfDrop:
		return "drop"
	case nfAccept:
		return "accept"
	case unix.NFT_CONTINUE, unix.NFT_BREAK:
		return ""
	case unix.NFT_JUMP:
		return "jump"
	case unix.NFT_GOTO:
		return "goto"
	case unix.NFT_RETURN:
		return "return"
	}
	return "queue"
}
