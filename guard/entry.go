package guard

import (
	"fmt"
	"net/netip"
	"slices"

	"espalier/ipsec"
)

// entry is what the guard keeps of a policy, and what it reads back from the rules of an
// earlier process.
type entry struct {
	Direction ipsec.Direction
	Action    ipsec.Action
	Optional  bool // Protect, and all of its processing is optional
	Selector  ipsec.Selector
	Priority  uint32
	// Of policies of the host's guard: packets with another mark, under Mask, are none of its business.
	Mark, Mask uint32
}

func newEntry(p *ipsec.Policy) (entry, error) {
	e := entry{Direction: p.Direction, Action: p.Action, Selector: p.Selector, Priority: p.Priority}
	if p.Action == ipsec.Protect {
		// A Protect without processing is incomplete, not optional.
		e.Optional = len(p.Processing) > 0 &&
			!slices.ContainsFunc(p.Processing, func(g ipsec.Processing) bool { return !g.Optional })
	}
	return e, e.validate()
}

func (e *entry) validate() error {
	switch s := &e.Selector; {
	case e.Direction != ipsec.Inbound && e.Direction != ipsec.Outbound && e.Direction != ipsec.Forward:
		return fmt.Errorf("%w: direction %s: a policy is in, out or fwd", ipsec.ErrInvalid, e.Direction)
	case e.Action > ipsec.Discard:
		return fmt.Errorf("%w: %s", ipsec.ErrInvalid, e.Action)
	case s.Is4() && s.Is6():
		return fmt.Errorf("%w: selector with addresses of two families", ipsec.ErrInvalid)
	case s.Interface < 0:
		return fmt.Errorf("%w: interface index %d", ipsec.ErrInvalid, s.Interface)
	}
	return nil
}

// admits reports whether matching traffic may pass in clear.
func (e *entry) admits() bool { return e.Action == ipsec.Bypass || e.Optional }

// id is the identity of the entry, with a selector that says the same in one way only.
func (e *entry) id() ipsec.PolicyID {
	return canonicalID(ipsec.PolicyID{Direction: e.Direction, Selector: e.Selector})
}

func canonicalID(id ipsec.PolicyID) ipsec.PolicyID {
	id.Selector = canonical(id.Selector)
	return id
}

func canonical(s ipsec.Selector) ipsec.Selector {
	masked := func(p netip.Prefix) netip.Prefix {
		if !p.IsValid() {
			return netip.Prefix{}
		}
		return p.Masked()
	}
	s.Src, s.Dst = masked(s.Src), masked(s.Dst)
	s.SrcPort.Value &= s.SrcPort.Mask
	s.DstPort.Value &= s.DstPort.Mask
	return s
}

// concerns reports whether the entry has a place in the table of the device with this
// ifindex; guarded tells the guard's own devices from others.
func (e *entry) concerns(ifindex int, guarded func(ifindex int) bool) bool {
	want := e.Selector.Interface
	return want == 0 || want == ifindex || !e.admits() && !guarded(want)
}
