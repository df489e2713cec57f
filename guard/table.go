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
	t := tableRequests{name: tableName(device)}
	t.table(unix.NFT_MSG_NEWTABLE, netlink.Create) // so that there is one to delete
	t.table(unix.NFT_MSG_DELTABLE, 0)
	t.table(unix.NFT_MSG_NEWTABLE, netlink.Create)
	t.counter(ingress.counter, from.in)
	t.counter(egress.counter, from.out)
	id := uint32(0)
	l.sets(func(s *set) {
		id++
		t.set(s, id)
		var all []element
		for k, e := range s.members {
			all = append(all, element{set: s, key: k, entry: e})
		}
		t.elements(all)
	})
	for i := range l.chains {
		t.chain(&l.chains[i], device)
	}
	for i := range l.chains {
		for j := range l.chains[i].rules {
			t.rule(&l.chains[i], j)
		}
	}
	return t.requests
}

// changeElements are the requests that change sets in a table.
func changeElements(device string, all []element) []request {
	t := tableRequests{name: tableName(device)}
	t.elements(all)
	return t.requests
}

// removeTable is the request that ends the guard of a device.
func removeTable(device string) []request {
	t := tableRequests{name: tableName(device)}
	t.table(unix.NFT_MSG_DELTABLE, 0)
	return t.requests
}

type tableRequests struct {
	name     string
	requests []request
}

func (t *tableRequests) add(kind uint16, flags netlink.HeaderFlags, what string, attrs func(*netlink.AttributeEncoder)) {
	what = fmt.Sprintf("%s of table netdev %s", what, t.name)
	t.requests = append(t.requests, request{kind, flags, what, attrs})
}

func (t *tableRequests) table(kind uint16, flags netlink.HeaderFlags) {
	t.requests = append(t.requests, request{kind, flags, "table netdev " + t.name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, t.name)
		if kind == unix.NFT_MSG_NEWTABLE {
			ae.Uint32(unix.NFTA_TABLE_FLAGS, 0)
		}
	}})
}

func (t *tableRequests) counter(name string, from counter) {
	t.add(unix.NFT_MSG_NEWOBJ, netlink.Create, "counter "+name, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_OBJ_TABLE, t.name)
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
		ae.String(unix.NFTA_CHAIN_TABLE, t.name)
		ae.String(unix.NFTA_CHAIN_NAME, c.name)
		if c.hook == nil {
			return
		}
		ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
			ae.Uint32(unix.NFTA_HOOK_HOOKNUM, c.hook.number)
			ae.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(c.hook.priority))
			ae.String(unix.NFTA_HOOK_DEV, device)
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
		ae.String(unix.NFTA_RULE_TABLE, t.name)
		ae.String(unix.NFTA_RULE_CHAIN, c.name)
		ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
			return encodeExpressions(ae, r.match)
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
	name := tableName(device)
	var comments map[string][]string
	err := c.unchanged(func() error {
		comments = map[string][]string{}
		msgs, err := c.dump(unix.NFT_MSG_GETRULE, name)
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
			if table != name {
				continue
			}
			if set, ok := strings.CutPrefix(comment, setWord); ok {
				elements, err := c.readElements(name, set)
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
		return nil, fmt.Errorf("table netdev %s: %w: it was left by another version; release the device to start anew", name, err)
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

// readDrops reads a device's counters; zero if it has no table.
func (c *conn) readDrops(device string) (drops, error) {
	name := tableName(device)
	var d drops
	err := c.unchanged(func() error {
		d = drops{}
		msgs, err := c.dump(unix.NFT_MSG_GETOBJ, name)
		if err != nil {
			return err
		}
		for _, m := range msgs {
			table, object, n, err := decodeCounter(m)
			switch {
			case err != nil:
				return err
			case table != name:
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
