package xfrm

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"

	"espalier/ipsec"
)

// FormatOptions tell how states and policies are written as commands.
type FormatOptions struct {
	// KeyFiles stand for keys, as @FILE, by keyword: aead, enc, auth, auth-trunc. Without,
	// and unless ShowKey is set, a placeholder stands there that Parse does not take for a
	// key.
	KeyFiles map[string]string
	ShowKey  bool
	// InterfaceName names an ifindex. Without it, or if it returns "", 7 is written if7.
	InterfaceName func(int) string
}

// hiddenKey stands for a key in a command. Parse refuses it: it has no hexadecimal digits.
const hiddenKey = "0x<hidden>"

// FormatState is the line `ip xfrm state add …` that installs s, quoted for a shell.
func FormatState(s *State, opt FormatOptions) string {
	return "ip xfrm " + quoteWords(StateWords(s, opt))
}

// FormatPolicy is the line `ip xfrm policy add …` that installs p, quoted for a shell.
func FormatPolicy(p *Policy, opt FormatOptions) string {
	return "ip xfrm " + quoteWords(PolicyWords(p, opt))
}

// StateWords are the words after `ip xfrm` that install s. What only a read-back fills in
// (counters, times, the bitmap) has no words.
func StateWords(s *State, opt FormatOptions) []string {
	w := wordList{"state", "add"}
	w.id(s.Src, s.Dst, s.Proto, uint32(s.SPI))
	w.number("reqid", s.Reqid)
	w.add("mode", s.Mode.String())
	w.mark("mark", s.Mark)
	w.algorithms(s, opt)
	w.number("seq", swapSeq(s.Seq))
	w.number("replay-window", s.ReplayWindow)
	if r := s.Replay; r != nil {
		w.number("replay-seq", r.Seq)
		w.number("replay-oseq", r.OSeq)
		w.number("replay-seq-hi", r.SeqHi)
		w.number("replay-oseq-hi", r.OSeqHi)
	}
	w.flags("flag", uint32(s.Flags), stateFlagNames)
	w.flags("extra-flag", s.ExtraFlags, extraFlagNames)
	w.limits(&s.Limits)
	if e := s.Encap; e != nil {
		w.add("encap", e.Type.String(), strconv.Itoa(int(e.SrcPort)), strconv.Itoa(int(e.DstPort)), addressOf(e.OA, stateFamily(s)))
	}
	if s.CoAddr.IsValid() {
		w.add("coa", s.CoAddr.String())
	}
	if s.SecCtx != nil {
		w.add("ctx", s.SecCtx.Context)
	}
	w.stateOffload(s, opt)
	w.mark("output-mark", s.OutputMark)
	w.number("if_id", s.IfID)
	w.number("tfcpad", s.TFCPad)
	if s.PCPU != nil {
		w.add("pcpu-num", utoa(*s.PCPU))
	}
	w.number("nat-keepalive", s.NATKeepalive)
	w.number("mapping-maxage", s.MappingThresh)
	if !selectorIsZero(&s.Sel) {
		w.add("sel")
		w.selector(&s.Sel, opt)
	}
	return w
}

// PolicyWords are the words after `ip xfrm` that install p.
func PolicyWords(p *Policy, opt FormatOptions) []string {
	w := wordList{"policy", "add"}
	w.selector(&p.Sel, opt)
	w.add("dir", p.Dir.String())
	w.mark("mark", p.Mark)
	w.number("index", p.Index)
	if p.SecCtx != nil {
		w.add("ctx", p.SecCtx.Context)
	}
	if p.Type != PolicyMain {
		w.add("ptype", p.Type.String())
	}
	if p.Action != PolicyAllow {
		w.add("action", p.Action.String())
	}
	w.number("priority", p.Priority)
	w.flags("flag", uint32(p.Flags), policyFlagNames)
	w.number("if_id", p.IfID)
	w.limits(&p.Limits)
	if p.Offload != nil {
		w.add("offload", "packet", "dev", opt.device(int(p.Offload.Ifindex)))
	}
	for _, t := range p.Tmpls {
		w.add("tmpl")
		w.id(t.Src, t.Dst, t.Proto, uint32(t.SPI))
		w.number("reqid", t.Reqid)
		w.add("mode", t.Mode.String())
		if t.Optional {
			w.add("level", "use")
		}
	}
	return w
}

// algorithms writes those of a state. An engine gives auth back as both auth and auth-trunc:
// one of them is enough.
func (w *wordList) algorithms(s *State, opt FormatOptions) {
	if a := s.AEAD; a != nil {
		w.add("aead", a.Name, opt.key("aead", a.Key), utoa(a.ICVBits))
	}
	if a := s.Crypt; a != nil {
		w.add("enc", a.Name, opt.key("enc", a.Key))
	}
	if a := s.AuthTrunc; a != nil {
		w.add("auth-trunc", a.Name, opt.key("auth-trunc", a.Key), utoa(a.TruncBits))
	} else if a := s.Auth; a != nil {
		w.add("auth", a.Name, opt.key("auth", a.Key))
	}
	if a := s.Comp; a != nil {
		w.add("comp", a.Name)
	}
}

func (opt FormatOptions) key(keyword string, key ipsec.Key) string {
	switch {
	case opt.ShowKey && key.Len() > 0:
		return "0x" + hex.EncodeToString(key.ExposeSecretBytes())
	case opt.KeyFiles[keyword] != "":
		return "@" + opt.KeyFiles[keyword]
	}
	return hiddenKey
}

func (opt FormatOptions) device(index int) string {
	return (&printer{PrintOptions: PrintOptions{InterfaceName: opt.InterfaceName}}).device(index)
}

// wordList collects the words of a command. Zero values, being the defaults, leave none.
type wordList []string

func (w *wordList) add(words ...string) { *w = append(*w, words...) }

func (w *wordList) number(keyword string, v uint32) {
	if v != 0 {
		w.add(keyword, utoa(v))
	}
}

func (w *wordList) id(src, dst netip.Addr, proto uint8, spi uint32) {
	if src.IsValid() {
		w.add("src", src.String())
	}
	if dst.IsValid() {
		w.add("dst", dst.String())
	}
	if proto != 0 {
		w.add("proto", ProtocolName(proto))
	}
	if spi != 0 {
		w.add("spi", "0x"+hex.EncodeToString([]byte{byte(spi >> 24), byte(spi >> 16), byte(spi >> 8), byte(spi)}))
	}
}

func (w *wordList) mark(keyword string, m *Mark) {
	if m == nil {
		return
	}
	w.add(keyword, cHex(m.Value))
	if m.Mask != ^uint32(0) {
		w.add("mask", cHex(m.Mask))
	}
}

// flags writes names, or one number if some have none: the grammar takes either.
func (w *wordList) flags(keyword string, v uint32, names nameTable) {
	if v == 0 {
		return
	}
	rest := v
	for _, e := range names {
		rest &^= e.value
	}
	if rest != 0 {
		w.add(keyword, cHex(v))
		return
	}
	w.add(keyword)
	w.add(strings.Fields(flagWords(v, names))...)
}

func (w *wordList) limits(l *LifetimeConfig) {
	none := NoLimits
	for _, f := range limitFields {
		if v := *f.field(l); v != *f.field(&none) {
			w.add("limit", f.name, strconv.FormatUint(v, 10))
		}
	}
}

// stateOffload also writes the SA's direction, unless offload implies it.
func (w *wordList) stateOffload(s *State, opt FormatOptions) {
	if s.Dir != 0 && s.Dir != s.impliedDir() {
		w.add("dir", s.Dir.String())
	}
	if s.Offload == nil {
		return
	}
	w.add("offload")
	if s.Offload.Flags&OffloadPacket != 0 {
		w.add("packet")
	}
	w.add("dev", opt.device(int(s.Offload.Ifindex)), "dir", s.Offload.dir().String())
}

func (w *wordList) selector(s *Selector, opt FormatOptions) {
	if s.Src.IsValid() {
		w.add("src", s.Src.String())
	}
	if s.Dst.IsValid() {
		w.add("dst", s.Dst.String())
	}
	if s.Interface != 0 {
		w.add("dev", opt.device(s.Interface))
	}
	if s.Protocol != 0 {
		w.add("proto", IPProtocolName(s.Protocol))
	}
	srcName, dstName := "sport", "dport"
	switch s.Protocol {
	case protoICMP, protoICMPv6, protoMobility:
		srcName, dstName = "type", "code"
	case protoGRE:
		if s.HasPorts() {
			w.add("key", utoa(uint32(s.SrcPort.Value)<<16|uint32(s.DstPort.Value)))
		}
		return
	}
	if !s.SrcPort.Any() {
		w.add(srcName, strconv.Itoa(int(s.SrcPort.Value)))
	}
	if !s.DstPort.Any() {
		w.add(dstName, strconv.Itoa(int(s.DstPort.Value)))
	}
}

// quoteWords joins words so that a shell, and ParseScript, take them apart again.
func quoteWords(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if word == "" || strings.Trim(word, wordBytes) != "" {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// wordBytes are those that mean nothing to a shell anywhere in a word.
const wordBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@=+,%"
