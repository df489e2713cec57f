package xfrm

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// PrintOptions tell how states and policies are printed. The zero value prints what
// `ip xfrm` prints, without keys.
type PrintOptions struct {
	Stats    bool   // also what `ip -s` prints: lifetimes, counters, numbers both ways
	ShowKeys bool   // print key material; otherwise <<Keys hidden>>
	OneLine  bool   // one object per line, with a backslash for each line break, as `ip -o`
	Label    string // before each event, such as a timestamp
	// InterfaceName names an ifindex. Without it, or if it returns "", 7 prints as if7.
	InterfaceName func(int) string
}

// printer lays out one object. Lines end in \n until flush.
type printer struct {
	text []byte
	PrintOptions
}

func (p *printer) f(format string, args ...any) { p.text = fmt.Appendf(p.text, format, args...) }

// s, n, address and prefix print what every object has without a detour by fmt: lists may be long.
func (p *printer) s(text string) { p.text = append(p.text, text...) }

func (p *printer) n(v uint64) { p.text = strconv.AppendUint(p.text, v, 10) }

// x is hexadecimal, eight digits long.
func (p *printer) x(v uint32) {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		p.text = append(p.text, digits[v>>shift&15])
	}
}

func (p *printer) address(a netip.Addr, family uint16) {
	if !a.IsValid() {
		p.s(addressOf(a, family))
		return
	}
	p.text = a.AppendTo(p.text)
}

func (p *printer) prefix(prefix netip.Prefix, family uint16) {
	if !prefix.IsValid() {
		p.s(addressOf(netip.Addr{}, family))
		p.s("/0")
		return
	}
	p.text = prefix.AppendTo(p.text)
}

// flush writes the object in one Write.
func (p *printer) flush(w io.Writer) error {
	out := p.text
	if p.OneLine {
		out = append(bytes.ReplaceAll(out, []byte("\n"), []byte("\\")), '\n')
	}
	if p.Label != "" {
		out = append([]byte(p.Label), out...)
	}
	_, err := w.Write(out)
	return err
}

func (p *printer) device(index int) string {
	if p.InterfaceName != nil {
		if name := p.InterfaceName(index); name != "" {
			return name
		}
	}
	return "if" + strconv.Itoa(index)
}

// addressOf prints an address, or the unspecified one of the family.
func addressOf(a netip.Addr, family uint16) string {
	switch {
	case a.IsValid():
		return a.String()
	case family == unix.AF_INET6:
		return "::"
	}
	return "0.0.0.0"
}

// id prints the two lines that states and templates begin with. Templates, and states of
// protocols that have none, leave out an SPI of 0.
func (p *printer) id(src, dst netip.Addr, family uint16, proto uint8, spi, reqid uint32, mode Mode, indent string, isState bool) {
	p.s("src ")
	p.address(src, family)
	p.s(" dst ")
	p.address(dst, family)
	p.s("\n")
	p.s(indent)
	p.s("proto ")
	p.s(ProtocolName(proto))
	p.s(" ")
	hasSPI := proto == protoESP || proto == protoAH || proto == protoComp
	if spi != 0 || isState && hasSPI || p.Stats {
		p.s("spi 0x")
		p.x(spi)
		if p.Stats {
			p.s("(")
			p.n(uint64(spi))
			p.s(")")
		}
		p.s(" ")
	}
	p.s("reqid ")
	p.n(uint64(reqid))
	if p.Stats {
		p.s("(0x")
		p.x(reqid)
		p.s(")")
	}
	p.s(" mode ")
	p.s(mode.String())
	p.s("\n")
}

// selector prints `src A/L dst B/L …` and ends the line.
func (p *printer) selector(s *Selector, family uint16) {
	if s.Family != 0 {
		family = s.Family
	}
	p.s("src ")
	p.prefix(s.Src, family)
	p.s(" dst ")
	p.prefix(s.Dst, family)
	p.s(" ")
	if s.Protocol != 0 {
		p.f("proto %s ", IPProtocolName(s.Protocol))
	}
	srcName, dstName := "sport", "dport"
	switch s.Protocol {
	case protoICMP, protoICMPv6:
		srcName, dstName = "type", "code"
	case protoMobility: // it has no code
		srcName, dstName = "type", ""
	case protoGRE:
		srcName, dstName = "", ""
		if !s.SrcPort.Any() || !s.DstPort.Any() {
			p.f("key %d ", uint32(s.SrcPort.Value)<<16|uint32(s.DstPort.Value))
		}
	}
	if srcName != "" && !s.SrcPort.Any() {
		p.f("%s %d ", srcName, s.SrcPort.Value)
	}
	if s.Protocol == protoMobility && p.Stats && !s.DstPort.Any() { // as ip has it, bytes swapped
		p.f("(dport) 0x%.4x ", s.DstPort.Value>>8|s.DstPort.Value<<8)
	}
	if dstName != "" && !s.DstPort.Any() {
		p.f("%s %d ", dstName, s.DstPort.Value)
	}
	if s.Interface != 0 {
		p.f("dev %s ", p.device(s.Interface))
	}
	if p.Stats {
		p.s("uid ")
		p.n(uint64(s.User))
	}
	p.s("\n")
}

// lifetimes prints limits and counters, four spaces deep under indent.
func (p *printer) lifetimes(l *LifetimeConfig, cur *LifetimeCurrent, indent string) {
	p.s(indent)
	p.s("lifetime config:\n")
	p.limits(indent, "limit: ", l.SoftBytes, l.HardBytes, "(bytes)", Infinity)
	p.limits(indent, "limit: ", l.SoftPackets, l.HardPackets, "(packets)", Infinity)
	p.limits(indent, "expire add: ", l.SoftAdd, l.HardAdd, "(sec)", 0)
	p.limits(indent, "expire use: ", l.SoftUse, l.HardUse, "(sec)", 0)
	p.s(indent)
	p.s("lifetime current:\n")
	p.s(indent)
	p.s("  ")
	p.n(cur.Bytes)
	p.s("(bytes), ")
	p.n(cur.Packets)
	p.s("(packets)\n")
	p.s(indent)
	p.s("  add ")
	p.time(cur.AddTime)
	p.s(" use ")
	p.time(cur.UseTime)
	p.s("\n")
}

// limits prints a line of lifetimes. A limit of none has a word for it, unless none is 0.
func (p *printer) limits(indent, what string, soft, hard uint64, unit string, none uint64) {
	one := func(name string, v uint64) {
		p.s(name)
		if v == none && none != 0 {
			p.s("(INF)")
		} else {
			p.n(v)
		}
		p.s(unit)
	}
	p.s(indent)
	p.s("  ")
	p.s(what)
	one("soft ", soft)
	one(", hard ", hard)
	p.s("\n")
}

// time prints Unix seconds in local time, which is what ip does.
func (p *printer) time(seconds uint64) {
	if seconds == 0 {
		p.s("-")
		return
	}
	p.text = time.Unix(int64(seconds), 0).AppendFormat(p.text, time.DateTime)
}

// stateOffload prints the line that tells what the engine granted.
func (p *printer) stateOffload(o *Offload) {
	dir, mode := "out", "crypto"
	if o.Flags&OffloadInbound != 0 {
		dir = "in"
	}
	if o.Flags&OffloadPacket != 0 {
		mode = "packet"
	}
	p.f("\tcrypto offload parameters: dev %s dir %s mode %s\n", p.device(int(o.Ifindex)), dir, mode)
}

// binary8 is how -s prints a byte of flags.
func binary8(v uint8) string { return fmt.Sprintf("0x%08b", v) }
