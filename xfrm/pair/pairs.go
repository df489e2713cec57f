package pair

import (
	"cmp"
	"net/netip"
	"slices"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Pair is a state for sending and one for receiving between the same two hosts.
type Pair struct {
	Out, In int // states; -1: there is none
}

// relation is what the two states of a pair have in common.
type relation struct {
	local, peer netip.Addr
	proto       uint8
	mode        xfrm.Mode
	ifID        uint32
}

// pairs puts states together: of those between the same two addresses first such that have the same
// reqid, then what is left, the newest with the newest. A state whose direction is not known
// is taken for an outbound one.
func pairs(states []*xfrm.State, directions []ipsec.Direction) []Pair {
	of := make(map[relation]*[2][]int, len(states)/2)
	var order []relation
	for i, s := range states {
		r, side := relation{s.Src, s.Dst, s.Proto, s.Mode, s.IfID}, 0
		if directions[i] == ipsec.Inbound {
			r.local, r.peer, side = s.Dst, s.Src, 1
		}
		if of[r] == nil {
			of[r] = new([2][]int)
			order = append(order, r)
		}
		of[r][side] = append(of[r][side], i)
	}
	var all []Pair
	for _, r := range order {
		all = append(all, join(states, of[r][0], of[r][1])...)
	}
	return all
}

// join pairs states of one relation.
func join(states []*xfrm.State, out, in []int) (joined []Pair) {
	newestFirst := func(a, b int) int { return cmp.Compare(states[b].Current.AddTime, states[a].Current.AddTime) }
	slices.SortStableFunc(out, newestFirst)
	slices.SortStableFunc(in, newestFirst)
	byReqid := map[uint32][]int{}
	for _, i := range in {
		byReqid[states[i].Reqid] = append(byReqid[states[i].Reqid], i)
	}
	taken := map[int]bool{}
	var left []int
	for _, o := range out {
		same := byReqid[states[o].Reqid]
		if len(same) == 0 {
			left = append(left, len(joined))
			joined = append(joined, Pair{o, -1})
			continue
		}
		byReqid[states[o].Reqid] = same[1:]
		taken[same[0]] = true
		joined = append(joined, Pair{o, same[0]})
	}
	for _, i := range in {
		switch {
		case taken[i]:
		case len(left) > 0:
			joined[left[0]].In, left = i, left[1:]
		default:
			joined = append(joined, Pair{-1, i})
		}
	}
	return joined
}
