package pair

import (
	"net/netip"

	"espalier/xfrm"
)

// index finds the states that may serve a template without looking at all of them.
type index struct {
	states  []*xfrm.State
	byDst   map[dstKey][]int
	byReqid map[reqidKey][]int
	byMode  map[modeKey][]int
}

type modeKey struct {
	proto uint8
	mode  xfrm.Mode
}

type reqidKey struct {
	modeKey
	reqid uint32
}

type dstKey struct {
	modeKey
	dst netip.Addr
}

func newIndex(states []*xfrm.State) *index {
	x := &index{states, make(map[dstKey][]int, len(states)), make(map[reqidKey][]int, len(states)), map[modeKey][]int{}}
	for i, s := range states {
		if s.IsLarval() {
			continue // it serves nobody
		}
		k := modeKey{s.Proto, s.Mode}
		x.byMode[k] = append(x.byMode[k], i)
		x.byReqid[reqidKey{k, s.Reqid}] = append(x.byReqid[reqidKey{k, s.Reqid}], i)
		x.byDst[dstKey{k, s.Dst}] = append(x.byDst[dstKey{k, s.Dst}], i)
	}
	return x
}

// candidates are states among which are all that serve a template.
func (x *index) candidates(p *xfrm.Policy, t *xfrm.Tmpl) []int {
	k := modeKey{t.Proto, t.Mode}
	some := x.between(p, t)
	if p.Dir == xfrm.PolicyOut || t.Reqid != 0 {
		if same := x.byReqid[reqidKey{k, t.Reqid}]; len(same) < len(some) {
			return same
		}
	}
	return some
}

// between are those whose destination may be that of a template.
func (x *index) between(p *xfrm.Policy, t *xfrm.Tmpl) []int { return x.inMode(p, t, t.Mode) }

// inMode are those of a mode whose destination may be that of a template.
func (x *index) inMode(p *xfrm.Policy, t *xfrm.Tmpl, mode xfrm.Mode) []int {
	k := modeKey{t.Proto, mode}
	switch {
	case byEndpoints(t, mode):
		return x.byDst[dstKey{k, t.Dst}]
	case p.Sel.Dst.IsSingleIP():
		return x.byDst[dstKey{k, p.Sel.Dst.Addr()}]
	}
	return x.byMode[k]
}
