package outage

import (
	"cmp"
	"slices"

	"espalier/xfrm"
)

// tracker knows which SAs are offloaded to which device, and what its links were last.
type tracker struct {
	sas   map[identity]offloaded
	links map[int]link
	last  map[int]LinkState // what was reported last of a device
	order uint64            // of the SA that comes next
}

type offloaded struct {
	SA
	device int // ifindex
	order  uint64
}

func newTracker() *tracker {
	return &tracker{sas: map[identity]offloaded{}, links: map[int]link{}, last: map[int]LinkState{}}
}

// state notes an SA that is there.
func (t *tracker) state(s *xfrm.State) {
	id := identityOf(s.ID())
	if s.Offload == nil {
		delete(t.sas, id)
		return
	}
	o := offloaded{saOf(s), int(s.Offload.Ifindex), t.order}
	if old, known := t.sas[id]; known {
		o.order = old.order
	}
	t.sas[id] = o
	t.order++
}

// event notes what a notification of NETLINK_XFRM says about SAs.
func (t *tracker) event(e *xfrm.Event) {
	if e.State != nil {
		e.State.WipeKeys()
	}
	switch e.Kind {
	case xfrm.MsgNewSA, xfrm.MsgUpdSA:
		t.state(e.State)
	case xfrm.MsgDelSA:
		delete(t.sas, identityOf(*e.StateID))
	case xfrm.MsgExpire:
		if e.Hard {
			delete(t.sas, identityOf(*e.StateID))
		}
	case xfrm.MsgFlushSA:
		f := xfrm.StateFilter{Proto: e.Proto}
		for id := range t.sas {
			if f.MatchProto(id.proto) {
				delete(t.sas, id)
			}
		}
	}
}

// on are the SAs offloaded to a device, in the order of their installation.
func (t *tracker) on(device int) []SA {
	var found []offloaded
	for _, o := range t.sas {
		if o.device == device {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b offloaded) int { return cmp.Compare(a.order, b.order) })
	sas := make([]SA, len(found))
	for i := range found {
		sas[i] = found[i].SA
	}
	return sas
}

// change notes a link as it is now, and tells what has become of it if that concerns SAs.
func (t *tracker) change(m linkMessage) (s LinkState, concerns bool) {
	was, known := t.links[m.index]
	if m.gone {
		delete(t.links, m.index)
		s = Gone
	} else {
		t.links[m.index] = m.link
		switch {
		case !known:
			return 0, false
		case was.up && !m.up:
			s = Down
		case !was.up && m.up:
			s = Up
		case m.up && was.carrier && !m.carrier:
			s = NoCarrier
		case m.up && !was.carrier && m.carrier:
			s = Carrier
		default:
			return 0, false
		}
	}
	last, reported := t.last[m.index]
	if !reported && len(t.on(m.index)) == 0 || s == Carrier && last != NoCarrier {
		return 0, false
	}
	t.last[m.index] = s
	if m.gone { // another device may get its index
		delete(t.last, m.index)
	}
	return s, true
}

// lose compares the SAs of a device with those that a dump has found there, and forgets the others.
func (t *tracker) lose(device int, there map[identity]bool) (lost, kept []SA) {
	for _, sa := range t.on(device) {
		id := identity{sa.Dst, sa.Proto, sa.SPI, sa.Mark}
		if there[id] {
			kept = append(kept, sa)
			continue
		}
		lost = append(lost, sa)
		delete(t.sas, id)
	}
	return lost, kept
}
