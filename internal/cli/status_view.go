package cli

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/internal/xfrmstat"
	"espalier/ipsec"
	"espalier/lint"
	"espalier/verdict"
	"espalier/verdict/observe"
	"espalier/xfrm"
)

// statusView is the JSON of `espalier status`. No key is in it; rates are those of the interval.
type statusView struct {
	Schema   string          `json:"schema"`
	OK       bool            `json:"ok"` // false: what was required is not so
	SAD      string          `json:"sad"`
	Kernel   string          `json:"kernel"`
	Time     float64         `json:"time"` // Unix seconds
	Interval float64         `json:"interval_seconds"`
	Verdict  verdict.Verdict `json:"verdict"` // on all SAs shown
	Pairs    []pairView      `json:"pairs"`
	Devices  []nicView       `json:"devices"`
	Gone     []goneView      `json:"gone,omitempty"` // offloaded SAs that went in the interval
	Findings []lint.Finding  `json:"findings"`
	Drops    []moveView      `json:"drops"` // reasons that occurred
	Policies int             `json:"policies"`

	only []string // devices of which the SAs are shown; none: all
}

// pairView is an SA for sending and one for receiving between the same two hosts. One may be missing.
type pairView struct {
	Local   string          `json:"local"`
	Peer    string          `json:"peer"`
	Mode    string          `json:"mode"`
	Verdict verdict.Verdict `json:"verdict"`
	Out     *saView         `json:"out,omitempty"`
	In      *saView         `json:"in,omitempty"`

	local, peer netip.Addr
}

type saView struct {
	Direction string          `json:"direction"` // out, in, any
	SPI       string          `json:"spi"`
	Src       string          `json:"src"`
	Dst       string          `json:"dst"`
	Reqid     uint32          `json:"reqid"`
	Verdict   verdict.Verdict `json:"verdict"`
	Reason    verdict.Reason  `json:"reason"`
	Why       string          `json:"why"`
	Unchecked []string        `json:"unchecked,omitempty"`
	Offload   *offloadView    `json:"offload" jsonschema:"nullable"` // as read back; null: none
	Cipher    string          `json:"cipher"`
	Encap     string          `json:"encap,omitempty"`
	ESN       bool            `json:"esn"`
	Window    uint32          `json:"window"`

	Age      *float64 `json:"age_seconds,omitempty"`       // since it was added
	LastUsed *float64 `json:"last_used_seconds,omitempty"` // ago
	Packets  uint64   `json:"packets"`                     // outbound, a packet that is cut up counts once
	Bytes    uint64   `json:"bytes"`
	Sequence uint64   `json:"sequence"` // last sent, or highest received
	Replayed uint64   `json:"replayed"` // dropped: seen before
	Late     uint64   `json:"late"`     // dropped: older than the window
	Forged   uint64   `json:"forged"`   // dropped: the integrity check failed

	Interval movedView `json:"in_interval"`
	PPS      float64   `json:"packets_per_second"`
	BPS      float64   `json:"bits_per_second"`
	Budgets  []budget  `json:"budgets"`
}

// movedView is what an SA did in the interval. Outbound, Packets are sequence numbers.
type movedView struct {
	Packets  uint64 `json:"packets"`
	Bytes    uint64 `json:"bytes"`
	Replayed uint64 `json:"replayed"`
	Late     uint64 `json:"late"`
	Forged   uint64 `json:"forged"`
}

// nicView is a device that SAs are offloaded to, and what it counted in the interval.
type nicView struct {
	Name      string        `json:"name"`
	Driver    string        `json:"driver"`
	Trust     verdict.Trust `json:"trust"`
	Up        bool          `json:"up"`
	Carrier   bool          `json:"carrier"`
	Feature   string        `json:"esp_hw_offload"` // on, off, unknown
	Encrypted *uint64       `json:"encrypted,omitempty"`
	Decrypted *uint64       `json:"decrypted,omitempty"`
}

// goneView are offloaded SAs of a device that went in the interval.
type goneView struct {
	Device string `json:"dev"`
	SAs    int    `json:"sas"`
	Up     bool   `json:"up"` // false: the kernel deletes them with their link, without an event
}

// moveView is a reason for which packets were dropped.
type moveView struct {
	Reason  string   `json:"reason"`
	Counter string   `json:"counter,omitempty"` // of /proc/net/xfrm_stat
	Total   uint64   `json:"total"`
	Moved   uint64   `json:"in_interval"`
	Meaning string   `json:"meaning,omitempty"`
	Causes  []string `json:"causes,omitempty"`
}

// newStatusView makes the document of an observation made at now.
func newStatusView(o *observe.Observation, now time.Time, device func(int) string) *statusView {
	v := &statusView{
		Schema: schemaOf("status"), OK: true, Time: float64(now.UnixMilli()) / 1000, Interval: o.Took.Seconds(),
		Pairs: make([]pairView, 0, len(o.Matching.Pairs)), Devices: []nicView{}, Drops: []moveView{}, Policies: len(o.Policies),
		Findings: append([]lint.Finding{}, o.Findings...),
	}
	for _, p := range o.Matching.Pairs {
		pair := pairView{}
		if p.Out >= 0 {
			pair.Out = saViewOf(o, p.Out, now, device)
			pair.local, pair.peer, pair.Mode = o.States[p.Out].Src, o.States[p.Out].Dst, o.States[p.Out].Mode.String()
		}
		if p.In >= 0 {
			pair.In = saViewOf(o, p.In, now, device)
			pair.local, pair.peer, pair.Mode = o.States[p.In].Dst, o.States[p.In].Src, o.States[p.In].Mode.String()
		}
		pair.Local, pair.Peer = addrText(pair.local), addrText(pair.peer)
		pair.Verdict = together(pair.sas())
		v.Pairs = append(v.Pairs, pair)
	}
	slices.SortStableFunc(v.Pairs, func(a, b pairView) int {
		return cmp.Or(a.local.Compare(b.local), a.peer.Compare(b.peer), cmp.Compare(a.Mode, b.Mode))
	})
	for i := range o.Evidence.Devices {
		if d := &o.Evidence.Devices[i]; offloadedTo(o, d.Index) {
			v.Devices = append(v.Devices, nicViewOf(d))
		}
	}
	v.departed(o, device)
	for _, d := range o.Drops {
		if d.Packets == 0 {
			continue
		}
		m := moveView{Reason: d.Reason, Counter: d.Counter, Total: d.Packets, Moved: d.Moved, Meaning: d.Meaning, Causes: dataplane.Causes(d.Reason)}
		if c, known := xfrmstat.Find(d.Counter); known {
			if d.Reason == d.Counter { // the causes of a counter are those of other reasons, too
				m.Causes = c.Causes
			}
			if m.Meaning == "" {
				m.Meaning = c.Meaning
			}
		}
		v.Drops = append(v.Drops, m)
	}
	v.judge()
	return v
}

func (v *statusView) departed(o *observe.Observation, device func(int) string) {
	for _, g := range o.Evidence.Gone {
		name := device(g.Device)
		i := slices.IndexFunc(v.Gone, func(v goneView) bool { return v.Device == name })
		if i < 0 {
			i = len(v.Gone)
			v.Gone = append(v.Gone, goneView{Device: name})
		}
		v.Gone[i].SAs++
		v.Gone[i].Up = slices.ContainsFunc(o.Evidence.Devices, func(d verdict.Device) bool { return d.Index == g.Device && d.Up })
	}
}

// judge is over all pairs that are shown.
func (v *statusView) judge() {
	var all []verdict.Verdict
	for i := range v.Pairs {
		all = append(all, v.Pairs[i].Verdict)
	}
	v.Verdict = verdict.Together(all...)
}

func together(sas []*saView) verdict.Verdict {
	var all []verdict.Verdict
	for _, sa := range sas {
		all = append(all, sa.Verdict)
	}
	return verdict.Together(all...)
}

// sas are the one or two of a pair.
func (p *pairView) sas() (sas []*saView) {
	for _, sa := range []*saView{p.Out, p.In} {
		if sa != nil {
			sas = append(sas, sa)
		}
	}
	return sas
}

func offloadedTo(o *observe.Observation, index int) bool {
	for i := range o.Evidence.SAs {
		if f := o.Evidence.SAs[i].Offload; f.Mode != ipsec.NoOffload && f.Interface == index {
			return true
		}
	}
	return false
}

func saViewOf(o *observe.Observation, i int, now time.Time, device func(int) string) *saView {
	s, e, j := o.States[i], &o.Evidence.SAs[i], &o.Judgements[i]
	v := &saView{
		Direction: o.Matching.Directions[i].String(), SPI: s.SPI.String(), Src: addrText(s.Src), Dst: addrText(s.Dst), Reqid: s.Reqid,
		Verdict: j.Verdict, Reason: j.Reason, Why: j.Why, Unchecked: j.Unchecked, Cipher: cipher(s),
		ESN: s.Flags&xfrm.FlagESN != 0, Window: s.ReplayWindow,
		Age: ago(s.Current.AddTime, now), LastUsed: ago(s.LastUsed, now),
		Packets: e.After.Packets, Bytes: e.After.Bytes, Sequence: e.After.Sequence,
		Replayed: e.After.Replayed, Late: e.After.Late, Forged: e.After.Forged,
	}
	if f := e.Offload; f.Mode != ipsec.NoOffload {
		v.Offload = &offloadView{Dev: device(f.Interface), Mode: f.Mode.String(), Dir: f.Direction.String()}
	}
	if s.Encap != nil {
		v.Encap = s.Encap.Type.String()
	}
	b, a := &e.Before, &e.After
	v.Interval = movedView{
		Packets: e.Moved(), Bytes: grown(b.Bytes, a.Bytes), Replayed: grown(b.Replayed, a.Replayed),
		Late: grown(b.Late, a.Late), Forged: grown(b.Forged, a.Forged),
	}
	counted := lived(s, e, o.Took, now)
	if seconds := counted.Seconds(); seconds > 0 {
		v.PPS = round(float64(v.Interval.Packets) / seconds)
		v.BPS = round(float64(v.Interval.Bytes) * 8 / seconds)
	}
	v.Budgets = budgets(s, e, v.PPS, v.BPS/8, rateOfPackets(e, counted), now)
	return v
}

func grown(before, after uint64) uint64 { return after - min(before, after) }

func round(v float64) float64 { return math.Round(v*10) / 10 }

// rateOfPackets is how fast the count grows that limits of packets are held against: outbound one of
// packets before they are cut up.
func rateOfPackets(e *verdict.SA, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return float64(grown(e.Before.Packets, e.After.Packets)) / took.Seconds()
}

// ago is nil for a time that never was.
func ago(unix uint64, now time.Time) *float64 {
	if unix == 0 {
		return nil
	}
	d := max(math.Floor(float64(now.UnixMilli())/1000-float64(unix)), 0)
	return &d
}

// cipher names the algorithm as swanctl and the RFCs do.
func cipher(s *xfrm.State) string {
	switch {
	case s.IsLarval():
		return ""
	case s.AEAD != nil && s.AEAD.Name == xfrm.AEADName:
		name := "AES-GCM"
		if bits := int(s.AEAD.KeyBits) - 32; bits == 128 || bits == 192 || bits == 256 {
			name = map[int]string{128: "AES-128-GCM", 192: "AES-192-GCM", 256: "AES-256-GCM"}[bits]
		}
		if s.AEAD.ICVBits != 128 {
			name += map[uint32]string{64: " (ICV 64)", 96: " (ICV 96)"}[s.AEAD.ICVBits]
		}
		return name
	case s.AEAD != nil:
		return s.AEAD.Name
	case s.Crypt != nil:
		return s.Crypt.Name
	}
	return "none"
}

func nicViewOf(d *verdict.Device) nicView {
	v := nicView{
		Name: d.Name, Driver: d.Driver, Trust: verdict.TrustIn(d.Driver), Up: d.Up, Carrier: d.Carrier,
		Feature: map[verdict.Feature]string{verdict.FeatureOn: "on", verdict.FeatureOff: "off"}[d.ESP[1]],
	}
	if v.Feature == "" {
		v.Feature = "unknown"
	}
	if d.Counts {
		first, last := &d.Readings[0], &d.Readings[3]
		out, in := grown(first.Sent.ESP, last.Sent.ESP), grown(first.Received.ESP, last.Received.ESP)
		v.Encrypted, v.Decrypted = &out, &in
	}
	return v
}

// limit leaves the pairs of which an SA is offloaded to one of the devices, and what belongs to those; none
// names all.
func (v *statusView) limit(devices []string) {
	if len(devices) == 0 {
		return
	}
	v.only = devices
	v.Devices = slices.DeleteFunc(v.Devices, func(d nicView) bool { return !slices.Contains(devices, d.Name) })
	v.Gone = slices.DeleteFunc(v.Gone, func(g goneView) bool { return !slices.Contains(devices, g.Device) })
	var left []pairView
	for _, p := range v.Pairs {
		for _, sa := range p.sas() {
			if sa.Offload != nil && slices.Contains(devices, sa.Offload.Dev) {
				left = append(left, p)
				break
			}
		}
	}
	v.Pairs = append([]pairView{}, left...)
	v.judge()
}
