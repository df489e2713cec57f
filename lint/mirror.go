package lint

import (
	"fmt"
	"net/netip"
	"slices"

	"espalier/ipsec"
	"espalier/xfrm"
)

// between finds what two hosts do not agree about.
func (r *Report) between(hosts []*host) (found []Finding) {
	at := map[*host]map[carries][]int{}
	for _, h := range hosts {
		at[h] = map[carries][]int{}
		for i, s := range h.States {
			if !s.IsLarval() {
				at[h][carriesOf(s)] = append(at[h][carriesOf(s)], i)
			}
		}
	}
	for _, sender := range hosts {
		for _, receiver := range hosts {
			if sender == receiver || !hasAddresses(sender) || !hasAddresses(receiver) {
				continue
			}
			m := mirror{report: r, sender: sender, receiver: receiver, at: at[receiver]}
			m.states()
			m.policies()
			found = append(found, m.found...)
		}
	}
	return found
}

func hasAddresses(h *host) bool { return len(h.Addresses) > 0 }

// mirror looks at what goes from one host to another.
type mirror struct {
	report           *Report
	sender, receiver *host
	at               map[carries][]int // states of the receiver
	found            []Finding
}

// carries is what goes from where to where.
type carries struct {
	src, dst netip.Addr
	proto    uint8
}

func carriesOf(s *xfrm.State) carries { return carries{s.Src, s.Dst, s.Proto} }

// add keeps a finding about an SA of the sender and one of the receiver (-1: none).
func (m *mirror) add(f Finding, out, in int) {
	if !m.sender.whole && slices.Contains(ofWhat, f.ID) || !m.receiver.whole && slices.Contains(ofWhat, f.ID) {
		return
	}
	f.About, f.States = aboutState(m.sender.States[out]), []int{out}
	if in >= 0 {
		f.Also = []Place{place(m.receiver.StateAt[in])}
	}
	if f.mend == nil {
		if mend := twoEnded[f.ID]; mend != nil {
			f.mend = func() ([]edit, string) { return mend(m, out, in) }
		}
	}
	m.found = append(m.found, m.sender.placed(f))
}

// states compares the two ends of each SA.
func (m *mirror) states() {
	var alone []int // of the sender's
	taken := map[int]bool{}
	for out, s := range m.sender.States {
		if !m.sends(out) {
			continue
		}
		in := m.first(carriesOf(s), func(i int) bool { return m.receiver.States[i].SPI == s.SPI })
		if in < 0 {
			alone = append(alone, out)
			continue
		}
		taken[in] = true
		m.compare(out, in)
	}
	for _, out := range alone {
		s := m.sender.States[out]
		in := m.first(carriesOf(s), func(i int) bool { return !taken[i] })
		if in >= 0 {
			taken[in] = true
			m.add(Finding{ID: SPIMismatch, Severity: Error, Counter: "XfrmInNoStates",
				Text: fmt.Sprintf("has SPI %s, and %s has %s in %s: all that is sent is dropped there", s.SPI, m.receiver.Name, m.receiver.States[in].SPI, place(m.receiver.StateAt[in]).Position()),
				Fix:  fmt.Sprintf("give both %s, the receiver's", m.receiver.States[in].SPI)}, out, in)
			m.compare(out, in)
		} else if !m.knows(s) {
			m.add(Finding{ID: NoPeerSA, Severity: Error, Counter: "XfrmInNoStates",
				Text: fmt.Sprintf("has no counterpart on %s: all that is sent is dropped there", m.receiver.Name),
				Fix:  "add the same SA on " + m.receiver.Name}, out, -1)
		}
	}
}

// sends reports whether an SA of the sender is for the receiver.
func (m *mirror) sends(i int) bool {
	s := m.sender.States[i]
	return !s.IsLarval() && m.sender.match.Directions[i] == ipsec.Outbound &&
		m.sender.Has(s.Src) && m.receiver.Has(s.Dst)
}

// knows reports whether the receiver is told by itself that this direction is missing: it has the other one alone.
func (m *mirror) knows(s *xfrm.State) bool {
	return len(m.at[carries{s.Dst, s.Src, s.Proto}]) > 0 && len(m.at[carriesOf(s)]) == 0
}

// first is a state of the receiver that carries the same, -1 if none fits.
func (m *mirror) first(what carries, fits func(int) bool) int {
	for _, i := range m.at[what] {
		if fits(i) {
			return i
		}
	}
	return -1
}

// compare tells what differs between the two ends of an SA.
func (m *mirror) compare(out, in int) {
	s, r := m.sender.States[out], m.receiver.States[in]
	there := fmt.Sprintf("%s (%s)", m.receiver.Name, place(m.receiver.StateAt[in]).Position())
	tell := func(id ID, severity Severity, counter, here, beyond, consequence, fix string) {
		m.add(Finding{ID: id, Severity: severity, Counter: counter, Text: fmt.Sprintf("has %s, and %s has %s: %s", here, there, beyond, consequence), Fix: fix}, out, in)
	}
	const dropped = "all that is sent is dropped there"
	if a, b := algorithmOf(s), algorithmOf(r); a != b {
		tell(AlgorithmMismatch, Error, "XfrmInStateProtoError", a, b, dropped, "say the same at both ends")
	} else if keysDiffer(s, r) {
		m.add(Finding{ID: KeyMismatch, Severity: Error, Counter: "XfrmInStateProtoError",
			Text: "has another key than " + there + ": all that is sent is dropped there", Fix: "give both ends one new key"}, out, in)
	}
	if a, b := s.Flags&xfrm.FlagESN, r.Flags&xfrm.FlagESN; a != b {
		tell(ESNMismatch, Error, "XfrmInStateProtoError", esnText(a), esnText(b), dropped, "say flag esn at both ends")
	}
	if s.Mode != r.Mode {
		tell(ModeMismatch, Error, "XfrmInStateModeError", "mode "+s.Mode.String(), "mode "+r.Mode.String(), "nothing passes", "say the same mode at both ends, in the templates, too")
	}
	if a, b := encapText(s.Encap), encapText(r.Encap); a != b {
		severity, consequence := Error, dropped
		if s.Encap != nil && r.Encap != nil && s.Encap.Type == r.Encap.Type {
			severity, consequence = Warning, "unless a NAT changes the ports, packets go where nobody listens"
		}
		tell(EncapMismatch, severity, "XfrmInStateMismatch", a, b, consequence, "say the same encap at both ends")
	}
	if s.Reqid != r.Reqid {
		tell(ReqidDiffers, Note, "", "reqid "+reqid(s.Reqid), "reqid "+reqid(r.Reqid), "nothing comes of it, for a reqid counts on its own host only, but it makes errors easy", "give both the same, with their templates")
	}
}

func esnText(flag xfrm.StateFlag) string {
	if flag != 0 {
		return "flag esn"
	}
	return "no flag esn"
}

func encapText(e *xfrm.EncapTmpl) string {
	if e == nil {
		return "no encap"
	}
	return fmt.Sprintf("encap %s %d %d", e.Type, e.SrcPort, e.DstPort)
}

// algorithmOf is what protects, without the key.
func algorithmOf(s *xfrm.State) (text string) {
	if a := s.AEAD; a != nil {
		text = fmt.Sprintf("%s with an ICV of %d bits", a.Name, a.ICVBits)
		if a.Key.Len() > 0 {
			text = fmt.Sprintf("%s with %d bytes of key and an ICV of %d bits", a.Name, a.Key.Len(), a.ICVBits)
		}
	}
	if a := s.Crypt; a != nil {
		text = a.Name
	}
	if a := s.Auth; a != nil {
		text += " and " + a.Name
	}
	if a := s.AuthTrunc; a != nil {
		text += fmt.Sprintf(" and %s cut to %d bits", a.Name, a.TruncBits)
	}
	return text
}

// keysDiffer reports whether keys that are known are not the same.
func keysDiffer(s, r *xfrm.State) bool {
	differ := func(a, b ipsec.Key) bool { return a.Len() > 0 && b.Len() > 0 && !a.Equal(b) }
	return s.AEAD != nil && r.AEAD != nil && differ(s.AEAD.Key, r.AEAD.Key) ||
		s.Crypt != nil && r.Crypt != nil && differ(s.Crypt.Key, r.Crypt.Key) ||
		s.Auth != nil && r.Auth != nil && differ(s.Auth.Key, r.Auth.Key) ||
		s.AuthTrunc != nil && r.AuthTrunc != nil && differ(s.AuthTrunc.Key, r.AuthTrunc.Key)
}

// policies compares what the sender encrypts with what the receiver wants encrypted.
func (m *mirror) policies() {
	encrypts := between(m.sender, xfrm.PolicyOut, m.sender, m.receiver)
	wants := between(m.receiver, xfrm.PolicyIn, m.sender, m.receiver)
	if len(encrypts) == 0 || len(wants) == 0 {
		return // which is told as missing
	}
	onlyWanted := without(m.receiver, wants, m.sender, encrypts)
	for _, i := range onlyWanted {
		p := m.receiver.Policies[i]
		m.mismatch(m.receiver, i, fmt.Sprintf("wants ESP for what %s does not send as ESP: that is dropped", m.sender.Name), "XfrmInTmplMismatch",
			fmt.Sprintf("make it the selector of %s's out policy", m.sender.Name), p)
	}
	if len(onlyWanted) > 0 {
		return
	}
	for _, i := range without(m.sender, encrypts, m.receiver, wants) {
		p := m.sender.Policies[i]
		consequence, counter := "takes it in clear as well", ""
		if p.Tmpls[0].Mode == xfrm.ModeTunnel {
			consequence, counter = "drops it", "XfrmInNoPols"
		}
		m.mismatch(m.sender, i, fmt.Sprintf("protects what no in policy of %s is about: it %s", m.receiver.Name, consequence), counter,
			fmt.Sprintf("add the in policy on %s, or make the selectors the same", m.receiver.Name), p)
	}
}

func (m *mirror) mismatch(h *host, i int, text, counter, fix string, p *xfrm.Policy) {
	if !m.sender.whole || !m.receiver.whole {
		return
	}
	m.found = append(m.found, h.placed(Finding{ID: PolicyMismatch, Severity: Error, About: "policy " + p.ID().String(), Text: text, Counter: counter, Fix: fix, Policies: []int{i}}))
}

// between are the policies of a host for ESP from one host to another.
func between(h *host, dir xfrm.PolicyDir, from, to *host) (policies []int) {
	for i, p := range h.Policies {
		if p.Dir != dir || !protects(p) {
			continue
		}
		src, dst := endsOf(h, i)
		if from.Has(src) && to.Has(dst) {
			policies = append(policies, i)
		}
	}
	return policies
}

// endsOf are the addresses of the SA that serves a policy, else those it asks for.
func endsOf(h *host, i int) (src, dst netip.Addr) {
	if serve := h.match.ServedBy[i]; len(serve) > 0 {
		return h.States[serve[0]].Src, h.States[serve[0]].Dst
	}
	return h.Policies[i].Tmpls[0].Src, h.Policies[i].Tmpls[0].Dst
}

// without are those of the one host's policies whose selector none of the other's has.
func without(h *host, these []int, other *host, those []int) (rest []int) {
	has := map[ipsec.Selector]bool{}
	for _, j := range those {
		has[other.Policies[j].Sel.Selector] = true
	}
	for _, i := range these {
		if !has[h.Policies[i].Sel.Selector] {
			rest = append(rest, i)
		}
	}
	return rest
}
