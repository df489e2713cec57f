package guard

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// policyAccept is NF_ACCEPT (linux/netfilter.h).
const policyAccept = 1

// drops are the named counters of a device's table.
type drops struct{ in, out counter }

type counter struct{ packets, bytes uint64 }

// replaceTable are the requests that put a layout in the place of whatever the table
// holds now. The counters go on from the numbers given.
func replaceTable(device string, l *layout, from drops) []request {
	t := tableRequests{of: deviceTable(device)}
	t.anew(from)
	id := uint32(0)
	l.sets(func(s *set) {
		id++
		t.filled(s, id)
	})
	t.chains(l.chains, device)
	return t.requests
}

// changeElements are the requests that change sets in a table.
func changeElements(device string, all []element) []request {
	t := tableRequests{of: deviceTable(device)}
	t.elements(all)
	return t.requests
}

// removeTable is the request that ends the guard of a device.
func removeTable(device string) []request {
	t := tableRequests{of: deviceTable(device)}
	t.table(unix.NFT_MSG_DELTABLE, 0)
	return t.requests
}

// table names a table.
type table struct {
	family uint8 // NFPROTO_*
	name   string
}

func deviceTable(device string) table { return table{unix.NFPROTO_NETDEV, tableName(device)} }

func (t table) String() string {
	if t.family == unix.NFPROTO_INET {
		return "table inet " + t.name
	}
	return "table netdev " + t.name
}

type tableRequests struct {
	of       table
	requests []request
}

// anew makes the table empty, whatever it held. Its counters go on from the numbers given.
func (t *tableRequests) anew(from drops) {
	t.table(unix.NFT_MSG_NEWTABLE, netlink.Create) // so that there is one to delete
	t.table(unix.NFT_MSG_DELTABLE, 0)
	t.table(unix.NFT_MSG_NEWTABLE, netlink.Create)
	t.counter(ingress.counter, from.in)
	t.counter(egress.counter, from.out)
}

// filled adds a set with its members.
func (t *tableRequests) filled(s *set, id uint32) {
	t.set(s, id)
	var all []element
	for k, e := range s.members {
		all = append(all, element{set: s, key: k, entry: e})
	}
	t.elements(all)
}

// chains adds chains, which may call one another, with their rules.
func (t *tableRequests) chains(all []chain, device string) {
	for i := range all {
		t.chain(&all[i], device)
	}
	for i := range all {
		for j := range all[i].rules {
			t.rule(&all[i], j)
		}
	}
}

func (t *tableRequests) add(kind uint16, flags netlink.HeaderFlags, what string, attrs func(*netlink.AttributeEncoder)) {
	what = fmt.Sprintf("%s of %s", what, t.of)
	t.requests = append(t.requests, request{t.of.family, kind, flags, what, attrs})
}

func (t *tableRequests) table(kind uint16, flags netlink.HeaderFlags) {
	t.requests = append(t.requests, request{t.of.family, kind, flags, t.of.String(), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, t.of.name)
		if kind == unix.NFT_MSG_NEWTABLE {
			ae.Uint32(unix.NFTA_TABLE_FLAGS, 0)
		}
	}})
}

func (t *tableRequests) counter(name string, from counter) {
	t.add(unix.NFT_MSG_NEWOBJ, netlink.Create, "counter "+name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, t.of.name)
		ae.String(unix.NFTA_OBJ_NAME, name)
		ae.Uint32(unix.NFTA_OBJ_TYPE, unix.NFT_OBJECT_COUNTER)
		ae.Nested(unix.NFTA_OBJ_DATA, func(ae *netlink.AttributeEncoder) error {
			ae.Uint64(unix.NFTA_COUNTER_BYTES, from.bytes)
			ae.Uint64(unix.NFTA_COUNTER_PACKETS, from.packets)
			return nil
		})
	})
}

func (t *tableRequests) chain(c *chain, device string) {
	t.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, "chain "+c.name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_CHAIN_TABLE, t.of.name)
		ae.String(unix.NFTA_CHAIN_NAME, c.name)
		if c.hook == nil {
			return
		}
		ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, c.hook.number)
			ae.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.hook.priority))
			if device != "" {
				ae.String(unix.NFTA_HOOK_DEV, device)
			}
			return nil
		})
		ae.Uint32(unix.NFTA_CHAIN_POLICY, policyAccept)
		ae.String(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

func (t *tableRequests) rule(c *chain, i int) {
	r := &c.rules[i]
	what := fmt.Sprintf("rule %d (%s) in chain %s", i+1, r.comment, c.name)
	t.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, what, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, t.of.name)
		ae.String(unix.NFTA_RULE_CHAIN, c.name)
		ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
			return encodeExpressions(ae, t.of.family, r.match)
		})
		if r.comment != "" {
			ae.Bytes(unix.NFTA_RULE_USERDATA, encodeUserdata(r.comment))
		}
	})
}

// commentUserdata is the type of a comment in a rule's userdata, a list of type, length and
// value, one byte each but the value (libnftnl udata.h).
const commentUserdata = 0

func encodeUserdata(comment string) []byte {
	b := append([]byte{commentUserdata, byte(len(comment) + 1)}, comment...)
	return append(b, 0)
}

// decodeUserdata returns the comment, or "" if there is none.
func decodeUserdata(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		value := b[2 : 2+int(b[1])]
		if b[0] == commentUserdata {
			if n := len(value); n > 0 && value[n-1] == 0 {
				value = value[:n-1]
			}
			return string(value)
		}
		b = b[2+int(b[1]):]
	}
	return ""
}

// readEntries reads back the entries of a device's rules; none if it has no table.
func (c *conn) readEntries(device string) ([]entry, error) {
	of := deviceTable(device)
	var comments map[string][]string
	err := c.unchanged(func() error {
		comments = map[string][]string{}
		msgs, err := c.dump(unix.NFT_MSG_GETRULE, of)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			var table, in, comment string
			err := attributes(m, func(ad *netlink.AttributeDecoder) {
				switch ad.Type() {
				case unix.NFTA_RULE_TABLE:
					table = ad.String()
				case unix.NFTA_RULE_CHAIN:
					in = ad.String()
				case unix.NFTA_RULE_USERDATA:
					comment = decodeUserdata(ad.Bytes())
				}
			})
			if err != nil {
				return err
			}
			if table != of.name {
				continue
			}
			if set, ok := strings.CutPrefix(comment, setWord); ok {
				elements, err := c.readElements(of, set)
				if err != nil {
					return err
				}
				comments[in] = append(comments[in], elements...)
				continue
			}
			comments[in] = append(comments[in], comment)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	entries, err := decodeEntries(comments)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: it was left by another version; release the device to start anew", of, err)
	}
	return entries, nil
}

// decodeEntries turns the comments of each chain into entries in SPD order.
func decodeEntries(comments map[string][]string) ([]entry, error) {
	var all []entry
	for _, s := range sides {
		var entries []entry
		for _, f := range families {
			var some []entry
			for _, text := range comments[s.familyChain(f)] {
				if !isEntryComment(text) {
					continue
				}
				e, err := parseComment(text)
				if err != nil {
					return nil, err
				}
				some = append(some, e)
			}
			entries = interleave(entries, some)
		}
		all = append(all, entries...)
	}
	return all, nil
}

// interleave joins two parts of one list, which share some entries, so that each keeps its
// order. An entry that stands for several rules comes out once.
func interleave(a, b []entry) []entry {
	var joined []entry
	at := map[entry]bool{}
	take := func(e entry) {
		if !at[e] {
			at[e] = true
			joined = append(joined, e)
		}
	}
	inA := map[entry]bool{}
	for _, e := range a {
		inA[e] = true
	}
	i := 0
	for _, e := range b {
		if inA[e] && !at[e] {
			for ; i < len(a) && a[i] != e; i++ {
				take(a[i])
			}
		}
		take(e)
	}
	for ; i < len(a); i++ {
		take(a[i])
	}
	return joined
}

// readDrops reads a table's counters; zero if there is none.
func (c *conn) readDrops(of table) (drops, error) {
	var d drops
	err := c.unchanged(func() error {
		d = drops{}
		msgs, err := c.dump(unix.NFT_MSG_GETOBJ, of)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			table, object, n, err := decodeCounter(m)
			switch {
			case err != nil:
				return err
			case table != of.name:
			case object == ingress.counter:
				d.in = n
			case object == egress.counter:
				d.out = n
			}
		}
		return nil
	})
	return d, err
}

func decodeCounter(m netlink.Message) (table, name string, n counter, err error) {
	err = attributes(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_OBJ_TABLE:
			table = ad.String()
		case unix.NFTA_OBJ_NAME:
			name = ad.String()
		case unix.NFTA_OBJ_DATA:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				ad.ByteOrder = binary.BigEndian
				for ad.Next() {
					switch ad.Type() {
					case unix.NFTA_COUNTER_BYTES:
						n.bytes = ad.Uint64()
					case unix.NFTA_COUNTER_PACKETS:
						n.packets = ad.Uint64()
					}
				}
				return nil
			})
		}
	})
	return table, name, n, err
}
