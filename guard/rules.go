package guard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// chain is an nftables chain with its rules; hook is nil in one that others call.
type chain struct {
	name  string
	hook  *hook
	rules []rule
}

type hook struct {
	number   uint32 // NF_NETDEV_*
	priority int32
}

type rule struct {
	match   match
	comment string
}

func (c *chain) add(m match, comment string) { c.rules = append(c.rules, rule{m, comment}) }

// side is one direction of travel at a device.
type side struct {
	name    string // of the chains for one family
	hook    string // of the chain at the hook
	counter string
	number  uint32
	// Ingress comes before a user's flowtable, which would forward past the guard; egress
	// after whatever may still change a packet.
	priority   int32
	directions []ipsec.Direction
	// What of an encapsulation counts, and how.
	sends   bool // the local end is the source
	anyPeer bool // a NAT may move the peer: only the local end counts
	marked  bool // it carries the mark of the underlay's own sockets
	whole   bool // it is not in fragments yet
}

var (
	ingress = side{name: "in", hook: "ingress", counter: "dropped_in", number: unix.NF_NETDEV_INGRESS, priority: -1000,
		directions: []ipsec.Direction{ipsec.Inbound, ipsec.Forward}, anyPeer: true}
	egress = side{name: "out", hook: "egress", counter: "dropped_out", number: unix.NF_NETDEV_EGRESS, priority: 1000,
		directions: []ipsec.Direction{ipsec.Outbound}, sends: true, marked: true}
	sides = [...]*side{&ingress, &egress}
)

func (s *side) has(d ipsec.Direction) bool {
	for _, have := range s.directions {
		if d == have {
			return true
		}
	}
	return false
}

func (s *side) familyChain(f *family) string { return s.name + "_" + f.name }

// tableName is the name of a device's table. Names nft cannot read are escaped with '/',
// which no device name contains.
func tableName(device string) string { return "espalier_" + nameOf(device) }

func nameOf(device string) string {
	var b strings.Builder
	for _, c := range []byte(device) {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-', c == '.':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "/%02x", c)
		}
	}
	return b.String()
}

// layout is what a device's table holds.
type layout struct {
	chains []chain
	walks  map[*side]map[*family]*walk
}

// build makes the rule set of one device, from entries in SPD order. Sets hold at least as many
// as from tells.
func build(cfg *Config, entries []*ranked, encaps []Encap, tapped []Tapped, from int) *layout {
	l := &layout{walks: make(map[*side]map[*family]*walk)}
	for _, s := range sides {
		l.walks[s] = make(map[*family]*walk)
		var own []*ranked
		guards := false
		for _, e := range entries {
			if s.has(e.Direction) {
				own = append(own, e)
				guards = guards || !e.admits()
			}
		}
		vlan := s.vlanChain(guards)
		hook := len(l.chains)
		l.chains = append(l.chains, s.hookChain(guards, vlan.name), vlan)
		for _, f := range families {
			chains, w := s.familyChains(f, cfg, own, encaps, from)
			l.chains = append(l.chains, chains...)
			l.walks[s][f] = w
			if s == &ingress {
				w.tapped = l.chains[hook].addTapped(f, tapped)
			}
		}
	}
	return l
}

// rules is how many rules there are.
func (l *layout) rules() (n int) {
	for i := range l.chains {
		n += len(l.chains[i].rules)
	}
	return n
}

// sets calls each for all sets.
func (l *layout) sets(each func(*set)) {
	for _, s := range sides {
		for _, f := range families {
			l.walks[s][f].sets(each)
		}
	}
}

// sets calls each for all sets of the walk.
func (w *walk) sets(each func(*set)) {
	if w.encaps != nil {
		w.encaps.both(each)
	}
	if w.tapped != nil {
		each(w.tapped)
	}
	for _, seg := range w.segments {
		for _, set := range seg.sets {
			set.both(each)
		}
	}
}

// both calls each for the set and that of its hosts.
func (s *set) both(each func(*set)) {
	each(s)
	if s.hosts != nil {
		each(s.hosts)
	}
}

var vlanTypes = [...]struct {
	name      string
	etherType uint16
}{{"802.1Q", unix.ETH_P_8021Q}, {"802.1ad", unix.ETH_P_8021AD}}

// hookChain sends each packet to the chain of its family; what is not IP passes.
func (s *side) hookChain(guards bool, vlan string) chain {
	c := chain{name: s.hook, hook: &hook{s.number, s.priority}}
	for _, t := range vlanTypes {
		c.add(match(nil).etherType(etherTypeAt, t.etherType).call(vlan), t.name)
	}
	if guards && s == &egress {
		// Only a packet socket can give the kernel another protocol than the frame's.
		for _, f := range families {
			c.add(match(nil).etherType(etherTypeAt, f.etherType).protocol(notEqual, f.etherType).drop(s.counter),
				"IP declared as something else")
		}
	}
	for _, f := range families {
		c.add(f.start().move(s.familyChain(f)), "")
	}
	return c
}

// vlanChain lets go what belongs to a VLAN device and keeps VLAN 0, a mere priority, which
// the stack takes for the device's own, through any number of such tags.
func (s *side) vlanChain(guards bool) chain {
	c := chain{name: s.hook + "_vlan"}
	c.add(match(nil).vlanIDNotZero(vlanIDAt).accept(), "VLAN of another device")
	if !guards {
		return c
	}
	for _, t := range vlanTypes {
		inner := match(nil).etherType(vlanTypeAt, t.etherType)
		c.add(inner.vlanIDNotZero(innerVLANIDAt).accept(), "VLAN of another device")
		c.add(inner.drop(s.counter), "stacked priority tags")
	}
	for _, f := range families {
		c.add(match(nil).etherType(vlanTypeAt, f.etherType).protocol(notEqual, f.etherType).drop(s.counter),
			"IP behind a priority tag in the frame")
	}
	return c
}

// familyChains is the walk of one family's packets, and the chains it calls.
func (s *side) familyChains(f *family, cfg *Config, entries []*ranked, encaps []Encap, from int) ([]chain, *walk) {
	c := chain{name: s.familyChain(f)}
	if f == &ipv6 {
		c.add(neighbourDiscovery(), "neighbour discovery")
	}
	c.add(f.start().upper(equal, unix.IPPROTO_ESP).accept(), "ESP")
	admitted := s.addEncaps(&c, f, cfg, encaps)
	entries = slices.DeleteFunc(slices.Clone(entries), func(e *ranked) bool { return !f.concerns(&e.Selector) })
	sets := 0
	w, in := newWalk(f, entries, from, func() string { sets++; return fmt.Sprintf("%s_set%d", c.name, sets) })
	w.encaps = admitted
	var called []chain
	done := make(map[*set]bool)
	for _, e := range entries {
		set := in[e]
		switch {
		case set == nil:
			called = append(called, s.addEntry(&c, f, &e.entry, nil, e.comment(), len(called)+1)...)
		case !done[set]:
			// Its place is that of the first of its entries: in a segment any will do.
			done[set] = true
			called = append(called, s.addEntry(&c, f, &e.entry, set, setWord+set.name, len(called)+1)...)
		}
	}
	return append([]chain{c}, called...), &w
}

const (
	firstNDType = 133 // router solicitation (RFC 4861 §4)
	lastNDType  = 137 // redirect
	ndHopLimit  = 255
)

func neighbourDiscovery() match {
	return ipv6.start().
		upper(equal, unix.IPPROTO_ICMPV6).
		load(expr.PayloadBaseNetworkHeader, 7, 1).compare(equal, []byte{ndHopLimit}).
		noFragment().
		load(expr.PayloadBaseTransportHeader, 0, 1).
		compare(expr.CmpOpGte, []byte{firstNDType}).compare(expr.CmpOpLte, []byte{lastNDType}).
		accept()
}

// addEncaps lets the encapsulations pass, by a set that is returned; nil if there are none.
func (s *side) addEncaps(c *chain, f *family, cfg *Config, encaps []Encap) *set {
	all := encapSet(s, f, c.name+"_encaps")
	for _, e := range encaps {
		if f.carries(e) {
			all.put(encapKey(s, e), nil)
		}
	}
	if len(all.members) == 0 {
		return nil
	}
	udp := f.start()
	if s.marked {
		udp = udp.marked(cfg.Mark, cfg.Mask)
	}
	udp = udp.upper(equal, unix.IPPROTO_UDP)
	if s.whole {
		for _, m := range f.withHeader(udp) {
			c.add(all.in(m, false).accept(), "UDP encapsulation")
		}
		return all
	}
	c.add(all.in(udp, false).accept(), "UDP encapsulation")
	c.add(all.hosts.in(f.laterFragment(udp), false).accept(), "fragments of UDP encapsulation")
	return all
}

// carries tells whether an encapsulation is of the family.
func (f *family) carries(e Encap) bool { return e.Local.Addr().BitLen() == 8*f.addrLen }

// addEntry adds the rules of an entry to the walk, or if set is not nil of all in it, which are like
// this one. It returns the chain they call, if any.
func (s *side) addEntry(c *chain, f *family, e *entry, set *set, comment string, number int) []chain {
	sel := &e.Selector
	start := f.start()
	if e.Mask != 0 {
		start = start.marked(e.Mark&e.Mask, e.Mask)
	}
	at := f.addresses(start, sel.Src, sel.Dst)
	switch {
	case set == nil:
	case !sel.HasPorts():
		at = set.in(f.start(), false)
	case e.admits():
		for _, m := range f.withHeader(f.start()) {
			c.add(set.in(m.upper(equal, sel.Protocol), false).accept(), comment)
		}
		return nil
	default:
		at = set.hosts.in(f.start(), false)
	}
	switch {
	case e.admits():
		addAdmitting(c, f, at, e, comment)
	case sel.Protocol == 0 && !sel.HasPorts():
		c.add(at.drop(s.counter), comment)
	default:
		called := dropUnlessOther(f, sel, set, s.counter)
		called.name = fmt.Sprintf("%s_%d", s.familyChain(f), number)
		c.add(at.call(called.name), comment)
		return []chain{called}
	}
	return nil
}

// addAdmitting accepts what is seen to match. Ports of a protocol that has none to read
// match nothing.
func addAdmitting(c *chain, f *family, at match, e *entry, comment string) {
	sel := &e.Selector
	if !sel.HasPorts() {
		if sel.Protocol != 0 {
			at = at.upper(equal, sel.Protocol)
		}
		c.add(at.accept(), comment)
		return
	}
	for _, proto := range protocolsOf(sel) {
		src, dst, _ := portFields(proto)
		for _, m := range f.withHeader(at) {
			m = m.upper(equal, proto)
			if !sel.SrcPort.Any() {
				m = m.port(equal, src, sel.SrcPort)
			}
			if !sel.DstPort.Any() {
				m = m.port(equal, dst, sel.DstPort)
			}
			c.add(m.accept(), comment)
		}
	}
}

// dropUnlessOther is for packets whose addresses match: those that are seen to have another
// protocol or other ports return, all others are dropped. So a packet that shows less than
// the selector asks for does not slip past. The ports are those of the selector, or of a set.
func dropUnlessOther(f *family, sel *ipsec.Selector, set *set, counter string) chain {
	var c chain
	protos := protocolsOf(sel)
	switch {
	case sel.Protocol != 0:
		c.add(noneOf(sel.Protocol).leave(), "")
	case sel.SrcPort.Value&sel.SrcPort.Mask != 0 || sel.DstPort.Value&sel.DstPort.Mask != 0:
		// As in Linux, ports of a protocol without any are zero.
		c.add(noneOf(protos...).leave(), "")
	}
	if sel.HasPorts() {
		c.add(f.laterFragment(f.start()).drop(counter), "ports not in this fragment")
	}
	for _, proto := range protos {
		src, dst, _ := portFields(proto)
		m := match(nil).upper(equal, proto)
		if set != nil {
			c.add(set.in(m, true).leave(), "")
			continue
		}
		if !sel.SrcPort.Any() {
			c.add(m.port(notEqual, src, sel.SrcPort).leave(), "")
		}
		if !sel.DstPort.Any() {
			c.add(m.port(notEqual, dst, sel.DstPort).leave(), "")
		}
	}
	c.add(match(nil).drop(counter), "")
	return c
}

// noneOf tests that the upper-layer protocol is known and none of these. It is not known
// behind an authentication header, where the kernel's walk ends.
func noneOf(protos ...uint8) match {
	m := match(nil).upper(notEqual, unix.IPPROTO_AH)
	for _, p := range protos {
		if p != unix.IPPROTO_AH {
			m = m.compare(notEqual, []byte{p})
		}
	}
	return m
}

// protocolsOf lists the protocols in which the selector's ports can be looked at.
func protocolsOf(sel *ipsec.Selector) []uint8 {
	if !sel.HasPorts() {
		return nil
	}
	if sel.Protocol == 0 {
		return withPorts[:]
	}
	if _, _, ok := portFields(sel.Protocol); ok {
		return []uint8{sel.Protocol}
	}
	return nil
}
