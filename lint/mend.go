package lint

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/pair"
	"espalier/xfrm/script"
)

// menders put findings about one host right. For IDs that are not among them nobody can tell what is meant.
var menders map[ID]func(*host, *Finding) ([]edit, string)

// twoEnded put findings about the two ends of an SA right.
var twoEnded map[ID]func(m *mirror, out, in int) ([]edit, string)

func init() {
	menders = map[ID]func(*host, *Finding) ([]edit, string){
		ReqidMismatch: (*host).mendReqid, TemplateMismatch: eitherEnd, NoReplayWindow: (*host).mendWindow, MissingIn: (*host).mendMissingIn,
		WrongDirection: (*host).mendDirection, CleartextAllowed: (*host).mendLevel, Limit0: (*host).mendLimits,
		MissingFwd: (*host).mendMissingFwd, NeighbourDiscovery: (*host).mendNeighbours,
		KeyReused: (*host).mendKey,
		NoESN: func(*host, *Finding) ([]edit, string) {
			return nil, "whether kernels and NICs of both hosts can is not known here"
		},
	}
	twoEnded = map[ID]func(m *mirror, out, in int) ([]edit, string){
		SPIMismatch: func(m *mirror, out, in int) ([]edit, string) {
			at := m.sender.StateAt[out]
			return setWord(at, 0, "spi", m.receiver.States[in].SPI.String(), at.Command.End)
		},
		KeyMismatch: func(m *mirror, out, in int) ([]edit, string) {
			s, r := m.sender.States[out], m.receiver.States[in]
			for _, k := range keysIn(s) {
				for _, other := range keysIn(r) {
					if k.Word == other.Word && !k.Key.Equal(other.Key) {
						return m.report.newKey(s, k.Word)
					}
				}
			}
			return nil, "the keys are not in the scripts"
		},
	}
}

const fromVariable = "the words come from a variable, together with others"

// find is the index of a keyword among the words of a command, from one on; -1 if there is none.
func find(words []script.Word, from int, keyword string) int {
	for i := from; i < len(words); i++ {
		if words[i].Text == keyword {
			return i
		}
	}
	return -1
}

// setWord gives a keyword another value; where is the place for both if it is missing, before which other words have to
// stand together.
func setWord(at script.At, from int, keyword, value string, where int) ([]edit, string) {
	words := at.Command.Words
	i := find(words, from, keyword)
	if i < 0 || i+1 >= len(words) {
		return []edit{{at.Script, where, where, " " + keyword + " " + value}}, ""
	}
	if words[i+1].Shared {
		return nil, fromVariable
	}
	return []edit{{at.Script, words[i+1].Start, words[i+1].End, value}}, ""
}

// room is a place among the words of an SA for more of them: behind the algorithm, else at the end.
func room(at script.At) int {
	words := at.Command.Words
	if i := find(words, 0, "aead"); i >= 0 && i+3 < len(words) && !words[i+3].Shared {
		return words[i+3].End
	}
	return at.Command.End
}

// cut takes a keyword out with the n words behind it.
func cut(at script.At, i, n int) ([]edit, string) {
	words := at.Command.Words
	if i < 1 || i+n >= len(words) {
		return nil, "the words are in an unusual order"
	}
	for _, w := range words[i : i+n+1] {
		if w.Shared {
			return nil, fromVariable
		}
	}
	return []edit{{at.Script, words[i-1].End, words[i+n].End, ""}}, ""
}

// eitherEnd: a policy and an SA differ, and either may be as it was meant.
func eitherEnd(*host, *Finding) ([]edit, string) {
	return nil, "whether the policy or the SA is meant so is not known here"
}

// mendReqid gives the template the reqid of the SA.
func (h *host) mendReqid(f *Finding) ([]edit, string) {
	p, s := h.Policies[f.Policies[0]], h.States[f.States[0]]
	at := h.PolicyAt[f.Policies[0]]
	words := at.Command.Words
	tmpl := 0
	for i := range p.Tmpls {
		tmpl = find(words, tmpl, "tmpl") + 1
		if p.Tmpls[i].Proto != s.Proto || pair.Differences(p, &p.Tmpls[i], s) != pair.OtherReqid {
			continue
		}
		end := find(words, tmpl, "tmpl") // of this template
		if end < 0 {
			end = len(words)
		}
		if own := find(words, tmpl, "reqid"); own >= end {
			return nil, "the policy has several templates"
		}
		return setWord(at, tmpl, "reqid", reqid(s.Reqid), words[end-1].End)
	}
	return nil, "the policy has several templates"
}

func (h *host) mendWindow(f *Finding) ([]edit, string) {
	at := h.StateAt[f.States[0]]
	return setWord(at, 0, "replay-window", "64", room(at))
}

// mendDirection exchanges dir, also that of the offload, unless the SA serves policies of both directions.
func (h *host) mendDirection(f *Finding) (edits []edit, why string) {
	i := f.States[0]
	out := h.Policies[f.Policies[0]].Dir == xfrm.PolicyOut
	for _, p := range h.match.Serves[i] {
		if (h.Policies[p].Dir == xfrm.PolicyOut) != out {
			return nil, "the SA serves policies of both directions"
		}
	}
	at := h.StateAt[i]
	dir := map[bool]string{true: "out", false: "in"}[out]
	for w := find(at.Command.Words, 0, "dir"); w >= 0; w = find(at.Command.Words, w+1, "dir") {
		more, why := setWord(at, w, "dir", dir, at.Command.End)
		if why != "" {
			return nil, why
		}
		edits = append(edits, more...)
	}
	return edits, ""
}

func (h *host) mendLevel(f *Finding) (edits []edit, why string) {
	at := h.PolicyAt[f.Policies[0]]
	for w := find(at.Command.Words, 0, "level"); w >= 0; w = find(at.Command.Words, w+1, "level") {
		more, why := cut(at, w, 1)
		if why != "" {
			return nil, why
		}
		edits = append(edits, more...)
	}
	return edits, ""
}

func (h *host) mendLimits(f *Finding) (edits []edit, why string) {
	at := h.StateAt[f.States[0]]
	words := at.Command.Words
	for w := find(words, 0, "limit"); w >= 0 && w+2 < len(words); w = find(words, w+1, "limit") {
		if strings.Trim(words[w+2].Text, "0x") == "" && !strings.HasPrefix(words[w+1].Text, "time") {
			more, why := cut(at, w, 2)
			if why != "" {
				return nil, why
			}
			edits = append(edits, more...)
		}
	}
	return edits, ""
}

// mendMissingIn adds the in policy, if it is clear which SA receives.
func (h *host) mendMissingIn(f *Finding) ([]edit, string) {
	i := f.Policies[0]
	out := h.Policies[i]
	if h.inCovers(i) {
		return nil, "the policy that lets it in may be meant so"
	}
	for j, p := range h.Policies {
		if near := h.match.Near[j]; p.Dir == xfrm.PolicyIn && near >= 0 {
			if _, d := nearest(p, h.States[near]); d != pair.OtherReqid {
				return nil, "there is an in policy that its SA does not fit"
			}
		}
	}
	src, dst := endsOf(h, i)
	var receiving []*xfrm.State
	for j, s := range h.States {
		if s.Src == dst && s.Dst == src && s.Proto == out.Tmpls[0].Proto && h.match.Directions[j] == ipsec.Inbound &&
			!slices.ContainsFunc(receiving, func(other *xfrm.State) bool { return other.Reqid == s.Reqid && other.Mode == s.Mode }) {
			receiving = append(receiving, s)
		}
	}
	if len(receiving) != 1 {
		return nil, fmt.Sprintf("there are %d SAs that it could ask for", len(receiving))
	}
	in := *out
	in.Dir, in.Index, in.Offload = xfrm.PolicyIn, 0, nil
	in.Sel.Src, in.Sel.Dst, in.Sel.SrcPort, in.Sel.DstPort = out.Sel.Dst, out.Sel.Src, out.Sel.DstPort, out.Sel.SrcPort
	t := out.Tmpls[0]
	t.Src, t.Dst, t.SPI, t.Reqid, t.Mode, t.Optional = dst, src, 0, receiving[0].Reqid, receiving[0].Mode, false
	in.Tmpls = []xfrm.Tmpl{t}
	return h.addPolicy(h.PolicyAt[i], &in)
}

// inCovers reports whether the way back of an out policy is decided on by any policy.
func (h *host) inCovers(i int) bool {
	for _, p := range h.Policies {
		if p.Dir == xfrm.PolicyIn && coversBack(p, h.Policies[i]) {
			return true
		}
	}
	return false
}

func (h *host) mendMissingFwd(f *Finding) ([]edit, string) {
	fwd := *h.Policies[f.Policies[0]]
	fwd.Dir, fwd.Index, fwd.Offload = xfrm.PolicyFwd, 0, nil
	return h.addPolicy(h.PolicyAt[f.Policies[0]], &fwd)
}

// addPolicy writes a policy below the line of another one, led as that is.
func (h *host) addPolicy(at script.At, p *xfrm.Policy) ([]edit, string) {
	end := at.Command.End
	for text := at.Script.Text; end < len(text) && text[end] != '\n'; end++ {
	}
	return []edit{{at.Script, end, end, "\n" + h.line(at, p)}}, ""
}

// line is the line that adds a policy, led as the one at a place is.
func (h *host) line(at script.At, p *xfrm.Policy) string {
	lead := at.Script.Text[at.Command.Start:at.Command.Words[0].Start]
	if strings.ContainsAny(lead, "\n\\") {
		lead = "ip xfrm "
	}
	line := xfrm.FormatPolicy(p, xfrm.FormatOptions{InterfaceName: h.report.names.Name})
	return lead + strings.TrimPrefix(line, "ip xfrm ")
}

// mendNeighbours lets neighbour discovery pass, by policies before all others of the script.
func (h *host) mendNeighbours(f *Finding) ([]edit, string) {
	i := f.Policies[0]
	p := h.Policies[i]
	at := h.PolicyAt[i]
	for _, before := range h.PolicyAt {
		if before.Script == at.Script && before.Command.Start < at.Command.Start {
			at = before
		}
	}
	var text strings.Builder
	for _, dir := range []xfrm.PolicyDir{xfrm.PolicyOut, xfrm.PolicyIn} {
		for _, kind := range neighbourTypes {
			nd := xfrm.Policy{Sel: p.Sel, Dir: dir, Limits: xfrm.NoLimits, Mark: p.Mark}
			nd.Sel.Protocol, nd.Sel.SrcPort = protoICMPv6, ipsec.Port(kind)
			if dir == xfrm.PolicyIn {
				nd.Sel.Src, nd.Sel.Dst = nd.Sel.Dst, nd.Sel.Src
			}
			if first := h.deciding(&nd.Sel.Selector, dir); first == nil || len(first.Tmpls) > 0 {
				text.WriteString(h.line(at, &nd) + "\n")
			}
		}
	}
	start := strings.LastIndexByte(at.Script.Text[:at.Command.Start], '\n') + 1
	return []edit{{at.Script, start, start, text.String()}}, ""
}

// mendRefusal does what a refusal asks for, if that is one thing.
func (h *host) mendRefusal(i int, r xfrm.Refusal) ([]edit, string) {
	at, s := h.StateAt[i], h.States[i]
	switch {
	case strings.HasPrefix(r.Reason, "replay-window with dir out"):
		return cut(at, find(at.Command.Words, 0, "replay-window"), 1)
	case strings.HasPrefix(r.Reason, "tfcpad"):
		return cut(at, find(at.Command.Words, 0, "tfcpad"), 1)
	case strings.Contains(r.Reason, "ICV") && s.AEAD != nil && s.AEAD.Name == xfrm.AEADName && s.AEAD.ICVBits != 128:
		return h.report.atBothEnds(s, func(at script.At) ([]edit, string) {
			return setNth(at, find(at.Command.Words, 0, "aead")+3, "128")
		})
	case strings.Contains(r.Reason, "AES-192"):
		return h.report.newKey(s, "aead")
	}
	return nil, "it can be put right in more than one way"
}

func setNth(at script.At, i int, value string) ([]edit, string) {
	if i < 3 || i >= len(at.Command.Words) {
		return nil, "the words are in an unusual order"
	}
	w := at.Command.Words[i]
	if w.Shared {
		return nil, fromVariable
	}
	return []edit{{at.Script, w.Start, w.End, value}}, ""
}

// mendKey gives an SA a new key at both its ends.
func (h *host) mendKey(f *Finding) ([]edit, string) {
	return h.report.newKey(h.States[f.States[0]], "aead")
}

// keyOfSA is a key of an SA, by the word that it follows.
type keyOfSA struct {
	xfrm.StateID
	word string
}

// newKey is the same for an SA whoever asks.
func (r *Report) newKey(s *xfrm.State, word string) ([]edit, string) {
	if r.newKeys == nil {
		r.newKeys = map[keyOfSA]ipsec.Key{}
	}
	keys := keysIn(s)
	i := slices.IndexFunc(keys, func(k namedKey) bool { return k.Word == word })
	if i < 0 {
		return nil, "the key is not in the script: make another one there"
	}
	id := keyOfSA{xfrm.StateID{Src: s.Src, Dst: s.Dst, Proto: s.Proto, SPI: s.SPI}, word}
	k, ok := r.newKeys[id]
	if !ok {
		n := keys[i].Key.Len()
		switch {
		case word == "aead" && n == 28: // AES-192, which NICs do not take
			n = 36
		case strings.HasPrefix(word, "auth") && n < 16:
			n = 32
		}
		k = ipsec.RandomKey(n)
		r.newKeys[id] = k
	}
	return r.atBothEnds(s, func(at script.At) ([]edit, string) {
		i := find(at.Command.Words, 0, word)
		if i < 0 {
			return nil, "the other end has another algorithm"
		}
		return setNth(at, i+2, "0x"+hex.EncodeToString(k.ExposeSecretBytes()))
	})
}

// atBothEnds makes the same edit wherever an SA stands; it has to be with two hosts.
func (r *Report) atBothEnds(s *xfrm.State, change func(script.At) ([]edit, string)) (edits []edit, why string) {
	ends := 0
	for _, h := range r.Hosts {
		for i, t := range h.States {
			if t.Src != s.Src || t.Dst != s.Dst || t.Proto != s.Proto || t.SPI != s.SPI {
				continue
			}
			more, why := change(h.StateAt[i])
			if why != "" {
				return nil, why
			}
			edits = append(edits, more...)
			ends++
		}
	}
	if ends < 2 {
		return nil, "the other end needs the same: give the script of that host, too"
	}
	return edits, ""
}
