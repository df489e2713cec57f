package guard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// InterfaceRules lists the rules of other programs in families inet, ip and ip6 that match
// a packet by its coming in or going out through the device, in the network namespace of
// the calling thread. Decrypted packets come in through the TUN device instead, so these
// rules need a twin. A line reads `inet filter input: iifname "p4p1"`; rules of one chain
// that match the device in the same way share a line.
func InterfaceRules(device string) ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("list rules for %s: %w", device, err)
	}
	r := interfaceReader{conn: c, device: device}
	if link, err := net.InterfaceByName(device); err == nil {
		r.index = link.Index // else no rule can name it by number
	}
	for _, f := range ruleFamilies {
		if err := r.family(f.family, f.name); err != nil {
			return nil, fmt.Errorf("list rules for %s: %w", device, err)
		}
	}
	return r.lines, nil
}

var ruleFamilies = [...]struct {
	family nftables.TableFamily
	name   string
}{{nftables.TableFamilyINet, "inet"}, {nftables.TableFamilyIPv4, "ip"}, {nftables.TableFamilyIPv6, "ip6"}}

type interfaceReader struct {
	conn   *nftables.Conn
	device string
	index  int
	lines  []string
}

func (r *interfaceReader) family(family nftables.TableFamily, name string) error {
	chains, err := r.conn.ListChainsOfTableFamily(family)
	if err != nil {
		return fmt.Errorf("chains of family %s: %w", name, err)
	}
	for _, c := range chains {
		where := fmt.Sprintf("%s %s %s", name, c.Table.Name, c.Name)
		rules, err := r.conn.GetRules(c.Table, c)
		if err != nil {
			return fmt.Errorf("rules of %s: %w", where, err)
		}
		for _, rule := range rules {
			matches, err := r.matches(c.Table, rule.Exprs)
			if err != nil {
				return fmt.Errorf("rules of %s: %w", where, err)
			}
			for _, m := range matches {
				if line := where + ": " + m; !slices.Contains(r.lines, line) {
					r.lines = append(r.lines, line)
				}
			}
		}
	}
	return nil
}

// loaded is an interface in a register: what rules call it, where its bytes begin among
// those of all registers, and whether it is a name or a number.
type loaded struct {
	word   string
	at     uint32
	byName bool
}

var interfaceKeys = map[expr.MetaKey]loaded{
	expr.MetaKeyIIFNAME: {word: "iifname", byName: true},
	expr.MetaKeyOIFNAME: {word: "oifname", byName: true},
	expr.MetaKeyIIF:     {word: "iif"},
	expr.MetaKeyOIF:     {word: "oif"},
}

// registerAt returns where a register begins: four of 16 bytes, or sixteen of 4, share
// the same memory (linux/netfilter/nf_tables.h).
func registerAt(register uint32) uint32 {
	if register >= unix.NFT_REG32_00 {
		return (register - unix.NFT_REG32_00) * 4
	}
	return (register - unix.NFT_REG_1) * 16
}

// matches follows a rule's expressions, comparisons and set look-ups alike.
func (r *interfaceReader) matches(table *nftables.Table, exprs []expr.Any) ([]string, error) {
	var found []string
	var have []loaded
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if e.SourceRegister {
				continue
			}
			at := registerAt(e.Register)
			have = slices.DeleteFunc(have, func(l loaded) bool { return l.at == at })
			if l, ok := interfaceKeys[e.Key]; ok {
				l.at = at
				have = append(have, l)
			}
		case *expr.Payload, *expr.Ct, *expr.Exthdr, *expr.Fib:
			// They put something else into a register; where it matters is the one of a
			// lone comparison, and that is the first.
			if l := written(e); l != nil {
				have = slices.DeleteFunc(have, func(h loaded) bool { return h.at == *l })
			}
		case *expr.Cmp:
			for _, l := range have {
				if e.Op == expr.CmpOpEq && l.at == registerAt(e.Register) {
					if text, ok := r.names(l, e.Data); ok {
						found = append(found, text)
					}
				}
			}
		case *expr.Lookup:
			for _, l := range have {
				if e.Invert || l.at < registerAt(e.SourceRegister) {
					continue
				}
				text, err := r.inSet(table, e.SetName, l, l.at-registerAt(e.SourceRegister))
				if err != nil {
					return nil, err
				}
				if text != "" {
					found = append(found, text)
				}
			}
		}
	}
	return found, nil
}

// written returns where an expression puts its result, nil if nowhere.
func written(e expr.Any) *uint32 {
	var register uint32
	switch e := e.(type) {
	case *expr.Payload:
		register = e.DestRegister
	case *expr.Ct:
		if !e.SourceRegister {
			register = e.Register
		}
	case *expr.Exthdr:
		register = e.DestRegister
	case *expr.Fib:
		register = e.Register
	}
	if register == 0 {
		return nil
	}
	at := registerAt(register)
	return &at
}

// names reports whether a value stands for the device, and how a rule would write it. A
// name without its terminating zero is the beginning of many: nft writes it with a star.
func (r *interfaceReader) names(l loaded, value []byte) (string, bool) {
	if !l.byName {
		ok := len(value) == 4 && r.index != 0 && binary.NativeEndian.Uint32(value) == uint32(r.index)
		return fmt.Sprintf("%s %q", l.word, r.device), ok
	}
	name, _, whole := bytes.Cut(value, []byte{0})
	if whole {
		return fmt.Sprintf("%s %q", l.word, name), string(name) == r.device
	}
	return fmt.Sprintf("%s %q", l.word, string(name)+"*"), bytes.HasPrefix([]byte(r.device), name)
}

// inSet looks for the device among a set's or map's elements, at an offset of their keys.
func (r *interfaceReader) inSet(table *nftables.Table, set string, l loaded, at uint32) (string, error) {
	s, err := r.conn.GetSetByName(table, set)
	if err != nil {
		return "", fmt.Errorf("set %s: %w", set, err)
	}
	elements, err := r.conn.GetSetElements(s)
	if err != nil {
		return "", fmt.Errorf("set %s: %w", set, err)
	}
	if s.Interval && l.byName && at == 0 {
		return r.inInterval(l, elements), nil
	}
	length := uint32(4)
	if l.byName {
		length = unix.IFNAMSIZ
	}
	for _, e := range elements {
		if uint32(len(e.Key)) < at+length {
			continue
		}
		if text, ok := r.names(l, e.Key[at:at+length]); ok {
			return text, nil
		}
	}
	return "", nil
}

// inInterval looks for the device in a set that holds ranges of names, as patterns with a
// star become: each element begins a range or, marked so, ends one.
func (r *interfaceReader) inInterval(l loaded, elements []nftables.SetElement) string {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, r.device)
	var last *nftables.SetElement
	for i := range elements {
		e := &elements[i]
		if bytes.Compare(e.Key, name) <= 0 && (last == nil || bytes.Compare(last.Key, e.Key) < 0 ||
			bytes.Equal(last.Key, e.Key) && last.IntervalEnd) {
			last = e
		}
	}
	if last == nil || last.IntervalEnd {
		return ""
	}
	return fmt.Sprintf("%s %q", l.word, r.device)
}
