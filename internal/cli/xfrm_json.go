package cli

import (
	"net/netip"
	"strings"

	"espalier/ipsec"
	"espalier/xfrm"
)

// The JSON of `espalier xfrm -o json`: one object a command. Keys are in none of them.
// Numbers that people write in hexadecimal are strings; times are Unix seconds.

func schemaOf(object string) string { return "espalier/" + object + "/v1" }

// result is a command that was carried out.
type result struct {
	Schema   string            `json:"schema"`
	OK       bool              `json:"ok"`
	Line     int               `json:"line,omitempty"` // of a batch
	SAD      string            `json:"sad"`            // kernel or unix:PATH
	Command  string            `json:"command"`
	Warnings []string          `json:"warnings,omitempty"`
	Offload  *offloadResult    `json:"offload,omitempty"`
	Count    map[string]uint32 `json:"count,omitempty"`
}

// offloadResult is what reading an SA back told.
type offloadResult struct {
	Granted bool         `json:"granted"`
	Verdict string       `json:"verdict"`
	Offload *offloadView `json:"as" jsonschema:"nullable"`
}

func (r *xfrmRun) resultOf(j job) result {
	return result{
		Schema: schemaOf("xfrm-" + j.Object.String()), OK: true, Line: j.line, SAD: r.sad.name(),
		Command: j.Verb.String(), Warnings: r.warnings(j),
	}
}

// dryRun is a command that was only looked at.
type dryRun struct {
	Schema   string   `json:"schema"`
	OK       bool     `json:"ok"` // nothing known to be refused
	Line     int      `json:"line,omitempty"`
	DryRun   bool     `json:"dry_run"` // true
	Command  string   `json:"command"`
	Would    string   `json:"would"` // the command line, without its key
	Refusals []string `json:"refusals,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

func (r *xfrmRun) dryRunView(j job, refusals []string) dryRun {
	return dryRun{
		Schema: schemaOf("xfrm-" + j.Object.String()), OK: len(refusals) == 0, Line: j.line, DryRun: true,
		Command: j.Verb.String(), Would: r.commandLine(j.Command), Refusals: refusals, Warnings: r.warnings(j),
	}
}

type stateList struct {
	result
	States []stateView `json:"states"`
}

type stateView struct {
	Src          string        `json:"src"`
	Dst          string        `json:"dst"`
	Proto        string        `json:"proto"`
	SPI          string        `json:"spi"`
	Reqid        uint32        `json:"reqid"`
	Mode         string        `json:"mode"`
	Dir          string        `json:"dir,omitempty"`
	ReplayWindow uint32        `json:"replay_window"`
	Flags        []string      `json:"flags"`
	ExtraFlags   uint32        `json:"extra_flags,omitempty"`
	AEAD         *aeadView     `json:"aead,omitempty"`
	Enc          *aeadView     `json:"enc,omitempty"`
	Auth         *aeadView     `json:"auth,omitempty"` // auth and auth-trunc
	Comp         *aeadView     `json:"comp,omitempty"`
	CoA          string        `json:"coa,omitempty"`
	Ctx          string        `json:"ctx,omitempty"`
	Encap        *encapView    `json:"encap,omitempty"`
	Offload      *offloadView  `json:"offload" jsonschema:"nullable"` // null: software
	Selector     *selectorView `json:"sel,omitempty"`
	Replay       *replayView   `json:"replay,omitempty"`
	Mark         *markView     `json:"mark,omitempty"`
	OutputMark   *markView     `json:"output_mark,omitempty"`
	IfID         uint32        `json:"if_id,omitempty"`
	TFCPad       uint32        `json:"tfcpad,omitempty"`
	Seq          uint32        `json:"seq,omitempty"` // of the key manager
	PCPU         *uint32       `json:"pcpu,omitempty"`
	NATKeepalive uint32        `json:"nat_keepalive,omitempty"`  // seconds
	MappingAge   uint32        `json:"mapping_maxage,omitempty"` // seconds
	Limits       limitsView    `json:"limits"`
	Current      currentView   `json:"current"`
	Stats        statsView     `json:"stats"`
	LastUsed     uint64        `json:"last_used,omitempty"`
}

type aeadView struct {
	Name    string `json:"name"`
	KeyBits uint32 `json:"key_bits"`           // with the salt
	ICVBits uint32 `json:"icv_bits,omitempty"` // 0: the algorithm's own
}

type encapView struct {
	Type  string `json:"type"`
	SPort uint16 `json:"sport"`
	DPort uint16 `json:"dport"`
	OA    string `json:"oa,omitempty"`
}

type offloadView struct {
	Dev  string `json:"dev"`
	Mode string `json:"mode"`
	Dir  string `json:"dir"`
}

type selectorView struct {
	Src   string  `json:"src,omitempty"`
	Dst   string  `json:"dst,omitempty"`
	Proto string  `json:"proto,omitempty"`
	SPort *uint16 `json:"sport,omitempty"` // ICMP type, upper half of a GRE key
	DPort *uint16 `json:"dport,omitempty"` // ICMP code, lower half of a GRE key
	Dev   string  `json:"dev,omitempty"`
}

type replayView struct {
	Seq    uint64   `json:"seq"`  // 64 bits with ESN
	OSeq   uint64   `json:"oseq"` // 64 bits with ESN
	Bitmap []uint32 `json:"bitmap,omitempty"`
}

type markView struct {
	Value uint32 `json:"value"`
	Mask  uint32 `json:"mask"`
}

// limitsView leaves out what has no limit.
type limitsView struct {
	SoftBytes   *uint64 `json:"byte_soft,omitempty"`
	HardBytes   *uint64 `json:"byte_hard,omitempty"`
	SoftPackets *uint64 `json:"packet_soft,omitempty"`
	HardPackets *uint64 `json:"packet_hard,omitempty"`
	SoftAdd     uint64  `json:"time_soft,omitempty"`
	HardAdd     uint64  `json:"time_hard,omitempty"`
	SoftUse     uint64  `json:"time_use_soft,omitempty"`
	HardUse     uint64  `json:"time_use_hard,omitempty"`
}

type currentView struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	Added   uint64 `json:"added,omitempty"`
	Used    uint64 `json:"used,omitempty"`
}

type statsView struct {
	ReplayWindow    uint32 `json:"replay_window"`
	Replay          uint32 `json:"replay"`
	IntegrityFailed uint32 `json:"integrity_failed"`
}

type policyList struct {
	result
	Policies []policyView `json:"policies"`
}

// defaultsView is the answer to getdefault.
type defaultsView struct {
	result
	Defaults defaultActions `json:"defaults"`
}

type defaultActions struct {
	In  string `json:"in"`
	Fwd string `json:"fwd"`
	Out string `json:"out"`
}

type policyView struct {
	Selector selectorView `json:"sel"`
	Dir      string       `json:"dir"`
	Socket   bool         `json:"socket,omitempty"`
	Index    uint32       `json:"index"`
	Priority uint32       `json:"priority"`
	Action   string       `json:"action"`
	Type     string       `json:"ptype"`
	Flags    []string     `json:"flags"`
	Tmpls    []tmplView   `json:"tmpls"`
	Mark     *markView    `json:"mark,omitempty"`
	IfID     uint32       `json:"if_id,omitempty"`
	Ctx      string       `json:"ctx,omitempty"`
	Offload  *offloadView `json:"offload,omitempty"`
	Limits   limitsView   `json:"limits"`
	Current  currentView  `json:"current"`
}

type tmplView struct {
	Src   string `json:"src,omitempty"`
	Dst   string `json:"dst,omitempty"`
	Proto string `json:"proto"`
	SPI   string `json:"spi,omitempty"`
	Reqid uint32 `json:"reqid"`
	Mode  string `json:"mode"`
	Level string `json:"level"`
}

func (r *xfrmRun) stateView(s *xfrm.State) stateView {
	v := stateView{
		Src: addrText(s.Src), Dst: addrText(s.Dst), Proto: xfrm.ProtocolName(s.Proto), SPI: s.SPI.String(),
		Reqid: s.Reqid, Mode: s.Mode.String(), ReplayWindow: s.ReplayWindow, Flags: flagList(s.Flags.String()),
		ExtraFlags: s.ExtraFlags, Offload: r.offloadView(s.Offload), IfID: s.IfID, TFCPad: s.TFCPad,
		Mark: (*markView)(s.Mark), OutputMark: (*markView)(s.OutputMark),
		Limits: limitsOf(&s.Limits), Current: currentOf(&s.Current), Stats: statsView(s.Stats), LastUsed: s.LastUsed,
	}
	if s.Dir != 0 {
		v.Dir = s.Dir.String()
	}
	if a := s.AEAD; a != nil {
		v.AEAD = &aeadView{Name: a.Name, KeyBits: a.KeyBits, ICVBits: a.ICVBits}
	}
	v.Enc, v.Comp = algorithmView(s.Crypt), algorithmView(s.Comp)
	if v.Auth = algorithmView(s.Auth); s.AuthTrunc != nil {
		v.Auth = &aeadView{Name: s.AuthTrunc.Name, KeyBits: s.AuthTrunc.KeyBits, ICVBits: s.AuthTrunc.TruncBits}
	}
	v.CoA, v.Ctx, v.Seq, v.PCPU = addrText(s.CoAddr), ctxText(s.SecCtx), s.Seq, s.PCPU
	v.NATKeepalive, v.MappingAge = s.NATKeepalive, s.MappingThresh
	if e := s.Encap; e != nil {
		v.Encap = &encapView{Type: e.Type.String(), SPort: e.SrcPort, DPort: e.DstPort, OA: addrText(e.OA)}
	}
	if sel := r.selectorView(&s.Sel); sel != (selectorView{}) {
		v.Selector = &sel
	}
	v.Replay = replayOf(s.Replay)
	return v
}

func replayOf(p *xfrm.ReplayState) *replayView {
	if p == nil {
		return nil
	}
	return &replayView{
		Seq: uint64(p.SeqHi)<<32 | uint64(p.Seq), OSeq: uint64(p.OSeqHi)<<32 | uint64(p.OSeq), Bitmap: p.Bitmap,
	}
}

func (r *xfrmRun) policyView(p *xfrm.Policy) policyView {
	dir := p.Dir
	if p.IsSocket() {
		dir -= 3
	}
	v := policyView{
		Selector: r.selectorView(&p.Sel), Dir: dir.String(), Socket: p.IsSocket(), Index: p.Index, Priority: p.Priority,
		Action: p.Action.String(), Type: p.Type.String(), Flags: flagList(p.Flags.String()), Tmpls: []tmplView{},
		Mark: (*markView)(p.Mark), IfID: p.IfID, Ctx: ctxText(p.SecCtx), Offload: r.offloadView(p.Offload),
		Limits: limitsOf(&p.Limits), Current: currentOf(&p.Current),
	}
	for _, t := range p.Tmpls {
		tv := tmplView{Src: addrText(t.Src), Dst: addrText(t.Dst), Proto: xfrm.ProtocolName(t.Proto),
			Reqid: t.Reqid, Mode: t.Mode.String(), Level: "required"}
		if t.SPI != 0 {
			tv.SPI = t.SPI.String()
		}
		if t.Optional {
			tv.Level = "use"
		}
		v.Tmpls = append(v.Tmpls, tv)
	}
	return v
}

func algorithmView(a *xfrm.Algorithm) *aeadView {
	if a == nil {
		return nil
	}
	return &aeadView{Name: a.Name, KeyBits: a.KeyBits}
}

func ctxText(c *xfrm.SecCtx) string {
	if c == nil {
		return ""
	}
	return c.Context
}

func (r *xfrmRun) offloadView(o *xfrm.Offload) *offloadView {
	if o == nil {
		return nil
	}
	v := &offloadView{Dev: r.deviceName(int(o.Ifindex)), Mode: offloadMode(o), Dir: "out"}
	if o.Flags&xfrm.OffloadInbound != 0 {
		v.Dir = "in"
	}
	return v
}

func (r *xfrmRun) selectorView(s *xfrm.Selector) selectorView {
	v := selectorView{Src: prefixText(s.Src), Dst: prefixText(s.Dst), SPort: portOf(s.SrcPort), DPort: portOf(s.DstPort)}
	if s.Protocol != 0 {
		v.Proto = xfrm.IPProtocolName(s.Protocol)
	}
	if s.Interface != 0 {
		v.Dev = r.deviceName(s.Interface)
	}
	return v
}

func portOf(m ipsec.PortMatch) *uint16 {
	if m.Any() {
		return nil
	}
	return &m.Value
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

func flagList(words string) []string { return append([]string{}, strings.Fields(words)...) }

func limitsOf(l *xfrm.LifetimeConfig) limitsView {
	count := func(v uint64) *uint64 {
		if v == xfrm.Infinity {
			return nil
		}
		return &v
	}
	return limitsView{
		SoftBytes: count(l.SoftBytes), HardBytes: count(l.HardBytes),
		SoftPackets: count(l.SoftPackets), HardPackets: count(l.HardPackets),
		SoftAdd: l.SoftAdd, HardAdd: l.HardAdd, SoftUse: l.SoftUse, HardUse: l.HardUse,
	}
}

func currentOf(c *xfrm.LifetimeCurrent) currentView {
	return currentView{Bytes: c.Bytes, Packets: c.Packets, Added: c.AddTime, Used: c.UseTime}
}
