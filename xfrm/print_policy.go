package xfrm

import (
	"fmt"
	"io"
	"strconv"
	"sync"
)

// FprintPolicy prints pol in the layout of `ip xfrm policy` (iproute2 7.1). The only error
// is w's.
func FprintPolicy(w io.Writer, pol *Policy, opt PrintOptions) error {
	p := policyPrinters.Get().(*printer)
	defer func() {
		*p = printer{text: p.text[:0]}
		policyPrinters.Put(p)
	}()
	p.PrintOptions = opt
	p.policy(pol, "")
	return p.flush(w)
}

// policyPrinters have room for the next policies: a list has thousands. Policies hold no secrets.
var policyPrinters = sync.Pool{New: func() any { return new(printer) }}

// policy prints most of its lines under indent, as ip does.
func (p *printer) policy(pol *Policy, indent string) {
	p.selector(&pol.Sel, pol.Sel.Family)
	p.secCtx(pol.SecCtx)
	p.s(indent)
	p.policyLine(pol)
	if p.Stats {
		p.lifetimes(&pol.Limits, &pol.Current, indent+"\t")
	}
	if pol.Mark != nil {
		p.f("\tmark %s \n", pol.Mark)
	}
	for i := range pol.Tmpls {
		p.tmpl(&pol.Tmpls[i], pol.Sel.Family, indent)
	}
	if o := pol.Offload; o != nil {
		p.f("%s\tcrypto offload parameters: dev %s mode packet\n", indent, p.device(int(o.Ifindex)))
	}
	if pol.IfID != 0 {
		p.f("%s\tif_id %#x\n", indent, pol.IfID)
	}
}

func (p *printer) policyLine(pol *Policy) {
	if pol.IsSocket() {
		p.f("\tsocket %s ", pol.Dir-policyDirs)
	} else {
		p.s("\tdir ")
		p.s(pol.Dir.String())
		p.s(" ")
	}
	if p.Stats || pol.Action != PolicyAllow {
		p.s("action ")
		p.s(pol.Action.String())
		p.s(" ")
	}
	if p.Stats {
		p.s("index ")
		p.n(uint64(pol.Index))
		p.s(" ")
	}
	p.s("priority ")
	p.n(uint64(pol.Priority))
	p.s(" ptype ")
	p.s(pol.Type.String())
	p.s(" ")
	if p.Stats {
		p.s("share ")
		p.s(pol.Share.String())
		p.s(" ")
	}
	if p.Stats || pol.Flags != 0 {
		p.s("flag ")
		p.s(pol.Flags.String())
	}
	if p.Stats {
		p.s(" (")
		p.s(binary8(uint8(pol.Flags)))
		p.s(")")
	}
	p.s("\n")
}

func (p *printer) tmpl(t *Tmpl, family uint16, indent string) {
	if t.Family != 0 {
		family = t.Family
	}
	p.s(indent)
	p.s("\ttmpl ")
	p.id(t.Src, t.Dst, family, t.Proto, uint32(t.SPI), t.Reqid, t.Mode, indent+"\t\t", false)
	level := "required"
	if t.Optional {
		level = "use"
	}
	switch {
	case p.Stats:
		p.s(indent)
		p.s("\t\tlevel ")
		p.s(level)
		p.s(" share ")
		p.s(t.Share.String())
		p.s(" \n")
		p.s(indent)
		p.s("\t\tenc-mask ")
		p.x(t.EAlgos)
		p.s(" auth-mask ")
		p.x(t.AAlgos)
		p.s(" comp-mask ")
		p.x(t.CAlgos)
		p.s("\n")
	case t.Optional:
		p.f("%s\t\tlevel %s \n", indent, level)
	}
}

// String is the form ip prints: value/mask in hexadecimal.
func (m *Mark) String() string { return cHex(m.Value) + "/" + cHex(m.Mask) }

// cHex is C's %#x, which puts no 0x before 0.
func cHex(v uint32) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", v)
}

func utoa(v uint32) string { return strconv.FormatUint(uint64(v), 10) }
