package xfrm

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"espalier/ipsec"
)

const keysHidden = "<<Keys hidden>>"

// FprintState prints s in the layout of `ip xfrm state` (iproute2 7.1). The only error is
// w's.
func FprintState(w io.Writer, s *State, opt PrintOptions) error {
	p := &printer{PrintOptions: opt}
	p.state(s)
	return p.flush(w)
}

func (p *printer) state(s *State) {
	family := stateFamily(s)
	p.id(s.Src, s.Dst, family, s.Proto, uint32(s.SPI), s.Reqid, s.Mode, "\t", true)
	p.stateFlags(s)
	p.stateAttributes(s, family)
	if !selectorIsZero(&s.Sel) {
		p.f("\tsel ")
		p.selector(&s.Sel, family)
	}
	if p.Stats {
		p.lifetimes(&s.Limits, &s.Current, "\t")
		p.f("\tstats:\n\t  replay-window %d replay %d failed %d\n",
			s.Stats.ReplayWindow, s.Stats.Replay, s.Stats.IntegrityFailed)
	}
	p.secCtx(s.SecCtx)
}

func (p *printer) secCtx(c *SecCtx) {
	if c != nil {
		p.f("\tsecurity context %s \n", c.Context)
	}
}

// selectorIsZero tells the selector of a state that was given none.
func selectorIsZero(s *Selector) bool {
	return s.Selector.Protocol == 0 && !s.HasPorts() && s.Interface == 0 && s.User == 0 && s.Family == 0 &&
		!s.Src.IsValid() && !s.Dst.IsValid()
}

func (p *printer) stateFlags(s *State) {
	window := s.ReplayWindow
	if s.wideReplay() {
		window = 0 // it is in the anti-replay context
	}
	p.f("\treplay-window %d ", window)
	if p.Stats {
		p.f("seq 0x%08d ", s.Seq)
	}
	if p.Stats || s.Flags != 0 {
		p.f("flag %s", s.Flags)
	}
	if p.Stats && s.ExtraFlags != 0 {
		p.f("extra_flag %s", flagWords(s.ExtraFlags, extraFlagNames))
	}
	if p.Stats {
		p.f(" (%s)", binary8(uint8(s.Flags)))
	}
	p.f("\n")
}

// stateAttributes prints a line for each attribute, in ip's order.
func (p *printer) stateAttributes(s *State, family uint16) {
	if s.Mark != nil || s.OutputMark != nil {
		var marks []string
		if s.Mark != nil {
			marks = append(marks, "mark "+s.Mark.String())
		}
		if s.OutputMark != nil {
			marks = append(marks, fmt.Sprintf("output-mark 0x%x/0x%x", s.OutputMark.Value, s.OutputMark.Mask))
		}
		end := "\n"
		if s.OutputMark == nil {
			end = " \n"
		}
		p.f("\t%s%s", strings.Join(marks, " "), end)
	}
	p.algorithms(s)
	if e := s.Encap; e != nil {
		p.f("\tencap type %s sport %d dport %d addr %s\n", e.Type, e.SrcPort, e.DstPort, addressOf(e.OA, family))
	}
	if s.CoAddr.IsValid() {
		p.f("\tcoa %s\n", s.CoAddr)
	}
	if s.LastUsed != 0 {
		p.s("\tlastused ")
		p.time(s.LastUsed)
		p.s("\n")
	}
	if s.Replay != nil {
		p.replay(s)
	}
	if s.Offload != nil {
		p.stateOffload(s.Offload)
	}
	if s.IfID != 0 {
		p.f("\tif_id %#x\n", s.IfID)
	}
	if s.TFCPad != 0 {
		p.f("\ttfcpad %d\n", s.TFCPad)
	}
	if s.Dir != 0 {
		p.f("\tdir %s\n", s.Dir)
	}
	if s.PCPU != nil {
		p.f("\tpcpu-num %d\n", *s.PCPU)
	}
	if s.NATKeepalive != 0 {
		p.f("\tnat-keepalive %d\n", s.NATKeepalive)
	}
	if s.MappingThresh != 0 {
		p.f("\tmapping-maxage %d\n", s.MappingThresh)
	}
}

// algorithms prints one line for each. Where there is auth-trunc, auth only says it again.
func (p *printer) algorithms(s *State) {
	if a := s.AuthTrunc; a != nil {
		p.f("\tauth-trunc %s %s %d\n", a.Name, p.key(a.Key, a.KeyBits), int32(a.TruncBits))
	} else if a := s.Auth; a != nil {
		p.f("\tauth %s %s\n", a.Name, p.key(a.Key, a.KeyBits))
	}
	if a := s.AEAD; a != nil {
		p.f("\taead %s %s %d\n", a.Name, p.key(a.Key, a.KeyBits), int32(a.ICVBits))
	}
	if a := s.Crypt; a != nil {
		p.f("\tenc %s %s\n", a.Name, p.key(a.Key, a.KeyBits))
	}
	if a := s.Comp; a != nil {
		p.f("\tcomp %s \n", a.Name)
	}
}

func (p *printer) key(key ipsec.Key, bits uint32) string {
	n := uint32(key.Len()) * 8
	switch {
	case !p.ShowKeys || n == 0 && bits != 0:
		return keysHidden
	case n == 0:
		return "" // as ip
	}
	text := "0x" + hex.EncodeToString(key.ExposeSecretBytes())
	if p.Stats {
		text += " (" + utoa(n) + " bits)"
	}
	return text
}

// wordsPerLine of an ESN bitmap.
const wordsPerLine = 8

func (p *printer) replay(s *State) {
	r := s.Replay
	if !s.wideReplay() {
		bitmap := uint32(0)
		if len(r.Bitmap) > 0 {
			bitmap = r.Bitmap[0]
		}
		p.f("\tanti-replay context: seq 0x%x, oseq 0x%x, bitmap 0x%08x\n", r.Seq, r.OSeq, bitmap)
		return
	}
	p.f("\tanti-replay esn context:\n")
	p.f("\t seq-hi 0x%x, seq 0x%x, oseq-hi 0x%x, oseq 0x%x\n", r.SeqHi, r.Seq, r.OSeqHi, r.OSeq)
	p.f("\t replay_window %d, bitmap-length %d\n", s.ReplayWindow, len(r.Bitmap))
	for i := range r.Bitmap {
		if i%wordsPerLine == 0 {
			p.f("\t ")
		}
		p.f("%08x ", r.Bitmap[len(r.Bitmap)-1-i])
		if i%wordsPerLine == wordsPerLine-1 {
			p.f("\n")
		}
	}
	if len(r.Bitmap)%wordsPerLine != 0 {
		p.f("\n")
	}
}
