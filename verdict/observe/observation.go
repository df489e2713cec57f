package observe

import (
	"net/netip"
	"slices"
	"time"

	"espalier/ipsec"
	"espalier/lint"
	"espalier/verdict"
	"espalier/xfrm"
	"espalier/xfrm/pair"
)

// Observation is what was seen of a SAD over an interval. States, Evidence.SAs and Judgements are about
// the same SAs, in the same order.
type Observation struct {
	Took       time.Duration
	States     []*xfrm.State // at the end; without keys
	Policies   []*xfrm.Policy
	Defaults   *xfrm.Defaults // what becomes of packets without a policy; nil: the SAD does not tell
	Matching   *pair.Matching
	Findings   []lint.Finding // what is wrong in States and Policies
	Evidence   verdict.Evidence
	Judgements []verdict.Judgement
	// Drops at the end, and how many of them are of the interval; nil: the engine does not tell.
	Drops []Drop
}

// Drop is one of the reasons for which packets were dropped.
type Drop struct {
	ipsec.DropCount
	Moved uint64 // in the interval
}

func (o *Observation) maySettle() bool {
	return slices.ContainsFunc(o.Judgements, func(j verdict.Judgement) bool { return j.MaySettle() })
}

// identity tells SAs apart; one that was deleted and added again is another.
type identity struct {
	src, dst netip.Addr
	proto    uint8
	spi      ipsec.SPI
	mark     xfrm.Mark
	added    uint64
}

func identityOf(s *xfrm.State) identity {
	id := identity{src: s.Src, dst: s.Dst, proto: s.Proto, spi: s.SPI, added: s.Current.AddTime}
	if s.Mark != nil {
		id.mark = *s.Mark
	}
	return id
}

// compare makes an observation of what was read.
func compare(before, after *reading, f *facts, userspace bool) *Observation {
	o := &Observation{Took: after.at.Sub(before.at), States: after.states, Policies: f.policies, Defaults: f.defaults}
	r := f.relations
	still := r.hold(after.states)
	if !still {
		r = relate(after.states, f)
	}
	o.Matching, o.Findings = r.matching, r.findings
	o.Evidence = verdict.Evidence{Interval: o.Took, Devices: devices(before, after, f)}
	if userspace {
		o.Evidence.Engine = verdict.Userspace
	}
	o.addSAs(before.states, still, f)
	o.addCPU([4]espCalls{before.cpu[0], before.cpu[1], after.cpu[0], after.cpu[1]}, f.net)
	o.Judgements = verdict.Judge(o.Evidence)
	o.addDrops(before.drops, after.drops)
	return o
}

// addSAs adds what there is to know of each SA. still: those at the beginning were the same, in this order.
func (o *Observation) addSAs(before []*xfrm.State, still bool, f *facts) {
	earlier := func(i int) *xfrm.State { return before[i] }
	left := map[identity]*xfrm.State{} // those that are not there any more
	if !still {
		for _, s := range before {
			left[identityOf(s)] = s
		}
		earlier = func(i int) *xfrm.State { return left[identityOf(o.States[i])] }
	}
	replaced := f.departures.told()
	o.Evidence.SAs = make([]verdict.SA, len(o.States))
	for i, s := range o.States {
		d := o.Matching.Directions[i]
		sa := verdict.SA{
			ID: ipsec.SAID{Dst: s.Dst, SPI: s.SPI}, Direction: d, Offload: offloadOf(s),
			After: countsOf(s, d), Changed: true,
		}
		switch was := earlier(i); {
		case was == nil || !sameOffload(was, s):
		case len(replaced) > 0 && replaced[identityOf(s)]: // added again in the same second
			left[identityOf(s)] = was
		default:
			sa.Before, sa.Changed = countsOf(was, d), false
			if !still {
				delete(left, identityOf(s))
			}
		}
		if offloadedOut(s) {
			if way := f.routes[destinationOf(s)]; way[0] == way[1] {
				sa.Route = way[0]
			}
		}
		o.Evidence.SAs[i] = sa
	}
	o.Evidence.Gone = f.departures.gone(left)
	if f.departures != nil && f.departures.lost { // any device's
		for _, d := range o.Evidence.Devices {
			o.Evidence.Gone = append(o.Evidence.Gone,
				verdict.Gone{Device: d.Index, Direction: ipsec.Outbound}, verdict.Gone{Device: d.Index, Direction: ipsec.Inbound})
		}
	}
}

// addCPU adds what the kernel's own ESP did of each SA of a network namespace, if that was counted.
func (o *Observation) addCPU(readings [4]espCalls, net uint64) {
	if slices.ContainsFunc(readings[:], func(r espCalls) bool { return r == nil }) {
		return
	}
	ids := make(map[xfrmID]bool, len(o.States))
	for _, s := range o.States {
		ids[xfrmIDOf(s)] = true
	}
	var calls [4]map[callID]uint64
	var unknown map[callID]bool // at the end at the latest
	for i, r := range readings {
		calls[i], unknown = r.of(ids, net)
	}
	for i, s := range o.States {
		sa := &o.Evidence.SAs[i]
		direction := sa.Direction
		if sa.Offload.Mode != ipsec.NoOffload {
			direction = sa.Offload.Direction
		}
		id := callID{xfrmIDOf(s), encrypts}
		if direction == ipsec.Inbound {
			id.kind = decrypts
		}
		if direction == ipsec.AnyDirection || unknown[id] {
			continue
		}
		sa.CPU = &verdict.Range{
			Low: calls[2][id] - min(calls[1][id], calls[2][id]), High: calls[3][id] - min(calls[0][id], calls[3][id]),
		}
	}
}

func sameOffload(a, b *xfrm.State) bool { return offloadOf(a) == offloadOf(b) }

func offloadOf(s *xfrm.State) ipsec.Offload {
	if s.Offload == nil {
		return ipsec.Offload{}
	}
	o := ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: int(s.Offload.Ifindex), Direction: ipsec.Outbound}
	if s.Offload.Flags&xfrm.OffloadPacket != 0 {
		o.Mode = ipsec.PacketOffload
	}
	if s.Offload.Flags&xfrm.OffloadInbound != 0 {
		o.Direction = ipsec.Inbound
	}
	return o
}

func countsOf(s *xfrm.State, d ipsec.Direction) verdict.Counts {
	c := verdict.Counts{
		Packets: s.Current.Packets, Bytes: s.Current.Bytes,
		Replayed: uint64(s.Stats.Replay), Late: uint64(s.Stats.ReplayWindow), Forged: uint64(s.Stats.IntegrityFailed),
	}
	if r := s.Replay; r != nil {
		sent, received := uint64(r.OSeqHi)<<32|uint64(r.OSeq), uint64(r.SeqHi)<<32|uint64(r.Seq)
		switch d {
		case ipsec.Outbound:
			c.Sequence = sent
		case ipsec.Inbound:
			c.Sequence = received
		default:
			c.Sequence = max(sent, received)
		}
	}
	return c
}

// devices puts together what was read of them.
func devices(before, after *reading, f *facts) []verdict.Device {
	var all []verdict.Device
	for index, end := range after.ports[1] {
		d := deviceOf(index, end)
		begin, there := before.ports[0][index]
		if !there {
			d.Problem = "SAs were offloaded to it only meanwhile"
			all = append(all, d)
			continue
		}
		readings := [4]port{begin, before.ports[1][index], after.ports[0][index], end}
		for i, p := range readings {
			d.Readings[i] = p.counted
			d.Counts = d.Counts && p.counts
			d.Shifted = d.Shifted || p.real != end.real
			if p.problem != "" {
				d.Problem = p.problem
			}
		}
		d.ESP = f.features[index]
		all = append(all, d)
	}
	for index, p := range f.via {
		all = append(all, deviceOf(index, p))
	}
	slices.SortFunc(all, func(a, b verdict.Device) int { return a.Index - b.Index })
	return all
}

func deviceOf(index int, p port) verdict.Device {
	return verdict.Device{Index: index, Name: p.name, Driver: p.driver, Kind: p.kind, Lower: p.lower,
		Up: p.up, Carrier: p.carrier, Counts: p.counts, Problem: p.problem}
}

func (o *Observation) addDrops(before, after []ipsec.DropCount) {
	was := make(map[string]uint64, len(before))
	for _, d := range before {
		was[d.Reason] = d.Packets
	}
	for _, d := range after {
		o.Drops = append(o.Drops, Drop{d, d.Packets - min(was[d.Reason], d.Packets)})
	}
}
