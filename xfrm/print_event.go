package xfrm

import (
	"io"
	"net/netip"
)

// FprintEvent prints e in the layout of `ip xfrm monitor` (iproute2 7.1), which knows no words
// for MIGRATE. The only error is w's.
func FprintEvent(w io.Writer, e *Event, opt PrintOptions) error {
	p := &printer{PrintOptions: opt}
	switch e.Kind {
	case MsgNewSA, MsgUpdSA, MsgDelSA, MsgExpire, MsgFlushSA:
		p.stateEvent(e)
	case MsgNewPolicy, MsgUpdPolicy, MsgDelPolicy, MsgPolExpire, MsgFlushPolicy:
		p.policyEvent(e)
	case MsgAcquire:
		p.acquire(e.Acquire)
	case MsgReport:
		p.f("report proto %s \n  sel ", ProtocolName(e.Proto))
		p.selector(e.Sel, e.Sel.Family)
	default: // these have line breaks with ip -o, too
		p.OneLine = false
		p.smallEvent(e)
	}
	return p.flush(w)
}

func (p *printer) stateEvent(e *Event) {
	switch e.Kind {
	case MsgUpdSA:
		p.f("Updated ")
	case MsgDelSA:
		p.f("Deleted ")
	case MsgExpire:
		p.f("Expired ")
	case MsgFlushSA:
		p.f("Flushed state proto %s\n", ProtocolName(e.Proto))
		return
	}
	if e.State == nil { // DELSA of an engine that only says which
		p.id(e.StateID.Src, e.StateID.Dst, addressFamily(e.StateID.Dst), e.StateID.Proto, uint32(e.StateID.SPI), 0, 0, "\t", true)
		return
	}
	p.state(e.State)
	if e.Kind == MsgExpire {
		p.hard(e.Hard)
	}
}

func (p *printer) policyEvent(e *Event) {
	switch e.Kind {
	case MsgUpdPolicy:
		p.f("Updated ")
	case MsgDelPolicy:
		p.f("Deleted ")
	case MsgPolExpire:
		p.f("Expired ")
	case MsgFlushPolicy:
		p.f("Flushed policy ptype %s \n", e.PolicyType)
		return
	}
	if e.Policy == nil {
		p.policy(&Policy{Sel: e.PolicyID.Sel, Dir: e.PolicyID.Dir, Index: e.PolicyID.Index}, "")
		return
	}
	p.policy(e.Policy, "")
	if e.Kind == MsgPolExpire {
		p.hard(e.Hard)
	}
}

func (p *printer) hard(hard bool) {
	v := 0
	if hard {
		v = 1
	}
	p.f("\thard %d\n", v)
}

func (p *printer) acquire(a *Acquire) {
	p.f("acquire proto %s ", ProtocolName(a.ID.Proto))
	if a.ID.SPI != 0 || p.Stats {
		p.f("spi 0x%08x", uint32(a.ID.SPI))
		if p.Stats {
			p.f("(%d)", uint32(a.ID.SPI))
		}
		p.f(" ")
	}
	p.f("\n  sel ")
	p.selector(&a.Sel, a.Sel.Family)
	p.f("  policy ")
	p.policy(a.Policy, "    ")
	if p.Stats {
		p.f("  seq 0x%08d enc-mask %08x auth-mask %08x comp-mask %08x", a.Seq, a.EAlgos, a.AAlgos, a.CAlgos)
	}
	p.f("\n")
}

func (p *printer) smallEvent(e *Event) {
	switch e.Kind {
	case MsgNewAE:
		p.aevent(e.AE)
	case MsgMapping:
		m := e.Mapping
		p.f("Mapping change %s:%d -> %s:%d\n\tdst %s ", m.OldSrc, m.OldPort, m.NewSrc, m.NewPort, m.ID.Dst)
		p.eventSA(m.Reqid, &m.ID)
	case MsgGetDefault:
		p.defaults(e.Defaults)
	default:
		p.f("Unknown message: %08d 0x%08x 0x%08x\n", e.Header.Length, uint16(e.Header.Type), uint16(e.Header.Flags))
	}
}

func (p *printer) aevent(a *AEvent) {
	p.f("Async event  (%#x) ", uint32(a.Flags))
	for _, f := range []struct {
		flag AEFlag
		text string
	}{{AEByReplay, "replay update"}, {AEByTimer, "timer expired"}, {AEByUpdate, "policy updated"}} {
		if a.Flags&f.flag != 0 {
			p.f(" %s ", f.text)
		}
	}
	p.f("\n\tsrc %s dst %s ", addressOf(a.ID.Src, addressFamily(a.ID.Dst)), a.ID.Dst)
	p.eventSA(a.Reqid, &a.ID)
}

func (p *printer) eventSA(reqid uint32, id *StateID) {
	p.f(" reqid 0x%x protocol %s  SPI 0x%x\n", reqid, IPProtocolName(id.Proto), uint32(id.SPI))
}

func (p *printer) defaults(d *Defaults) {
	p.f("Default policies:\n in:  %s\n fwd: %s\n out: %s\n", d.In, d.Fwd, d.Out)
}

// FprintDefaults prints what `ip xfrm policy getdefault` prints. The only error is w's.
func FprintDefaults(w io.Writer, d *Defaults) error {
	p := &printer{}
	p.defaults(d)
	return p.flush(w)
}

func addressFamily(a netip.Addr) uint16 {
	family, _ := addrFamily(a)
	return family
}
