package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// loaded is what is in a register: a word of [Match], and how its bytes read.
type loaded struct {
	what string
	kind kind
	mask uint32 // of a bitwise before it; 0 for none
}

type kind uint8

const (
	opaque  kind = iota
	number1      // of one byte
	number2      // of two, big-endian
	host4        // of four, the host's order
	name         // of an interface
	bits         // of connection tracking, in the host's order
	route        // fib: 0 for none
)

// size in bytes; 0 for one that is not told.
func (k kind) size() int {
	switch k {
	case number1:
		return 1
	case number2:
		return 2
	case host4, bits, route:
		return 4
	case name:
		return unix.IFNAMSIZ
	}
	return 0
}

func metaWord(key uint32) loaded {
	switch key {
	case unix.NFT_META_L4PROTO:
		return loaded{what: "l4proto", kind: number1}
	case unix.NFT_META_NFPROTO:
		return loaded{what: "nfproto", kind: number1}
	case unix.NFT_META_PROTOCOL:
		return loaded{what: "protocol", kind: number2}
	case unix.NFT_META_IIF:
		return loaded{what: "iif", kind: host4}
	case unix.NFT_META_OIF:
		return loaded{what: "oif", kind: host4}
	case unix.NFT_META_IIFNAME:
		return loaded{what: "iifname", kind: name}
	case unix.NFT_META_OIFNAME:
		return loaded{what: "oifname", kind: name}
	case nftMetaSecpath:
		return loaded{what: "secpath", kind: number1}
	case unix.NFT_META_MARK:
		return loaded{what: "mark"}
	case unix.NFT_META_PKTTYPE:
		return loaded{what: "pkttype"}
	}
	return loaded{what: fmt.Sprintf("meta key %d", key)}
}

// payloadWord: offsets of the IPv4 and IPv6 header have words of their own, since a rule that
// looks at one says nothing of packets of the other.
func payloadWord(base, offset, length uint32) loaded {
	type place struct{ base, offset, length uint32 }
	switch (place{base, offset, length}) {
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 9, 1}:
		return loaded{what: "ip protocol", kind: number1}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 1}:
		return loaded{what: "ip6 nexthdr", kind: number1}
	case place{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2}:
		return loaded{what: "sport", kind: number2}
	case place{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}:
		return loaded{what: "dport", kind: number2}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4}:
		return loaded{what: "ip saddr"}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4}:
		return loaded{what: "ip daddr"}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16}:
		return loaded{what: "ip6 saddr"}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16}:
		return loaded{what: "ip6 daddr"}
	}
	return loaded{what: fmt.Sprintf("%d bytes at %d", length, offset)}
}

// ctBits are the bits of connection tracking (linux/netfilter/nf_conntrack_common.h), by word.
var ctBits = map[string][]struct {
	bit  uint32
	name string
}{
	"ct state":  {{1 << 0, "invalid"}, {1 << 1, "established"}, {1 << 2, "related"}, {1 << 3, "new"}, {1 << 6, "untracked"}},
	"ct status": {{1 << 0, "expected"}, {1 << 1, "seen-reply"}, {1 << 2, "assured"}, {1 << 3, "confirmed"}, {1 << 4, "snat"}, {1 << 5, "dnat"}, {1 << 9, "dying"}},
}

func ctWord(key uint32) loaded {
	switch key {
	case unix.NFT_CT_STATE:
		return loaded{what: "ct state", kind: bits}
	case unix.NFT_CT_STATUS:
		return loaded{what: "ct status", kind: bits}
	}
	return loaded{what: "ct"}
}

func (l loaded) bitNames(mask uint32) []string {
	in := []string{}
	for _, b := range ctBits[l.what] {
		if mask&b.bit != 0 {
			in = append(in, b.name)
		}
	}
	return in
}

// number reads a value of a loaded word.
func (l loaded) number(b []byte) (uint64, bool) {
	switch {
	case len(b) < l.kind.size():
		return 0, false
	case l.kind == number1:
		return uint64(b[0]), true
	case l.kind == number2:
		return uint64(binary.BigEndian.Uint16(b)), true
	case l.kind == host4 || l.kind == route:
		return uint64(binary.NativeEndian.Uint32(b)), true
	}
	return 0, false
}

// compare is a cmp expression.
func (l loaded) compare(op uint32, data []byte) Match {
	m := Match{What: l.what, Not: op == unix.NFT_CMP_NEQ}
	equal := op == unix.NFT_CMP_EQ || op == unix.NFT_CMP_NEQ
	switch n, isNumber := l.number(data); {
	case l.kind == name && equal:
		// nft compares no more bytes than a name with a star has.
		if before, _, whole := bytes.Cut(data, []byte{0}); whole {
			m.In = []string{string(before)}
		} else {
			m.In = []string{string(data) + "*"}
		}
	case l.kind == bits && l.mask != 0 && equal && len(data) == 4 && binary.NativeEndian.Uint32(data) == 0:
		// `ct state established,related` asks whether any of these bits is set.
		m.In, m.Not = l.bitNames(l.mask), op == unix.NFT_CMP_EQ
	case l.kind == bits && l.mask == 0 && equal && len(data) == 4:
		m.In = l.bitNames(binary.NativeEndian.Uint32(data))
	case l.kind == route && equal && isNumber && n == 0:
		m.In = []string{"missing"}
	case l.kind == opaque || l.kind == bits || l.kind == route || l.kind == name || !isNumber:
		return Match{What: l.what + " …"}
	case equal:
		m.In = []string{strconv.FormatUint(n, 10)}
	case op == unix.NFT_CMP_LT && n == 0:
		m.In = []string{"none"}
	case op == unix.NFT_CMP_LT:
		m.In = []string{interval(0, n-1)}
	case op == unix.NFT_CMP_LTE:
		m.In = []string{interval(0, n)}
	case op == unix.NFT_CMP_GT:
		m.In = []string{interval(n+1, 1<<32)}
	case op == unix.NFT_CMP_GTE:
		m.In = []string{interval(n, 1<<32)}
	}
	return m
}

func interval(low, high uint64) string {
	if low == high {
		return strconv.FormatUint(low, 10)
	}
	return strconv.FormatUint(low, 10) + "-" + strconv.FormatUint(high, 10)
}

// between is a range expression, without its negation.
func (l loaded) between(low, high []byte) Match {
	from, ok1 := l.number(low)
	to, ok2 := l.number(high)
	if !ok1 || !ok2 || l.kind == host4 || l.kind == route {
		return Match{What: l.what + " …"}
	}
	return Match{What: l.what, In: []string{interval(from, to)}}
}

// among is the condition that a value is in a set. A concatenation of several values is not
// followed.
func (l loaded) among(elements []element) Match {
	opaqueSet := Match{What: l.what + " …"}
	if slices.ContainsFunc(elements, func(e element) bool { return len(e.key) != l.kind.size() || e.last != nil }) {
		return opaqueSet
	}
	m := Match{What: l.what, In: []string{}}
	intervals := slices.ContainsFunc(elements, func(e element) bool { return e.ends })
	switch {
	case l.kind == bits && l.mask == 0 && !intervals:
		for _, e := range elements {
			m.In = append(m.In, l.bitNames(binary.NativeEndian.Uint32(e.key))...)
		}
		return m
	case l.kind == name && !intervals:
		for _, e := range elements {
			before, _, _ := bytes.Cut(e.key, []byte{0})
			m.In = append(m.In, string(before))
		}
		return m
	case l.kind != number1 && l.kind != number2 && (l.kind != host4 || intervals):
		return opaqueSet
	}
	if !intervals {
		for _, e := range elements {
			n, _ := l.number(e.key)
			m.In = append(m.In, strconv.FormatUint(n, 10))
		}
		return m
	}
	// Each element begins a range or, marked so, ends one; the last may be open.
	elements = slices.Clone(elements)
	slices.SortStableFunc(elements, func(a, b element) int { return bytes.Compare(a.key, b.key) })
	for i, e := range elements {
		if e.ends {
			continue
		}
		low, _ := l.number(e.key)
		high := uint64(1)<<(8*l.kind.size()) - 1
		if i+1 < len(elements) {
			next, _ := l.number(elements[i+1].key)
			if high = next - 1; next <= low {
				continue
			}
		}
		m.In = append(m.In, interval(low, high))
	}
	return m
}
