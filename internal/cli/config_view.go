package cli

import (
	"errors"
	"io/fs"
	"time"

	"espalier/config"
	"espalier/ipsec"
)

// configView is the JSON of `espalier config check`.
type configView struct {
	Schema string           `json:"schema"`
	OK     bool             `json:"ok"` // nothing is wrong with any file
	Files  []configFileView `json:"files"`
}

type configFileView struct {
	File     string           `json:"file"`
	OK       bool             `json:"ok"`
	Problems []config.Problem `json:"problems"`
	Notes    []config.Problem `json:"notes"` // not wrong, but may surprise
	Tunnels  []tunnelView     `json:"tunnels"`
}

type tunnelView struct {
	Name       string         `json:"name"`
	Mode       string         `json:"mode"`
	Hosts      []hostView     `json:"hosts"`
	Selectors  []string       `json:"selectors"` // empty: all traffic
	Bypass     []string       `json:"bypass"`
	Encap      string         `json:"encap"` // none or udp
	Port       uint16         `json:"port,omitempty"`
	ESN        string         `json:"esn"`
	Window     uint32         `json:"window"` // packets; 0: auto
	KeyBits    uint16         `json:"key_bits"`
	Limits     limitsOfView   `json:"limits"`
	Rotate     rotateView     `json:"rotate"`
	Mark       string         `json:"mark,omitempty"`
	OutputMark string         `json:"output_mark,omitempty"`
	IfID       uint32         `json:"if_id,omitempty"`
	Engine     string         `json:"engine"`
	Offload    string         `json:"offload"`
	SAs        string         `json:"sas"`
	Pairs      []meshPairView `json:"pairs"`
}

type hostView struct {
	Address string   `json:"address"`
	Dev     string   `json:"dev"`
	Subnets []string `json:"subnets,omitempty"`
	SSH     string   `json:"ssh,omitempty"`
	Sudo    string   `json:"sudo"`
}

// limitsOfView has 0 for no limit.
type limitsOfView struct {
	SoftSeconds uint64 `json:"soft_seconds"`
	HardSeconds uint64 `json:"hard_seconds"`
	SoftBytes   uint64 `json:"soft_bytes"`
	HardBytes   uint64 `json:"hard_bytes"`
	SoftPackets uint64 `json:"soft_packets"`
	HardPackets uint64 `json:"hard_packets"`
}

type rotateView struct {
	Never              bool   `json:"never,omitempty"`
	EverySeconds       uint64 `json:"every_seconds,omitempty"`
	AtMostSharePercent uint8  `json:"at_most_share_percent,omitempty"` // of the sequence numbers
}

// meshPairView is seen from a to b; the other direction is its mirror image.
type meshPairView struct {
	A      string      `json:"a"`
	B      string      `json:"b"`
	Lanes  []laneView  `json:"lanes"`
	Bypass []entryView `json:"bypass"`
}

type laneView struct {
	Reqid   uint32      `json:"reqid"`
	Protect []entryView `json:"protect"`
}

type entryView struct {
	selectorView
	Priority uint32 `json:"priority"`
}

// viewConfig is a file, or what is wrong with it.
func viewConfig(name string, f *config.File, err error) configFileView {
	view := configFileView{File: name, OK: err == nil, Problems: []config.Problem{}, Notes: []config.Problem{}, Tunnels: []tunnelView{}}
	if problems, ok := errors.AsType[config.Problems](err); ok {
		view.Problems = problems
	} else if err != nil {
		if file, ok := errors.AsType[*fs.PathError](err); ok {
			err = file.Err
		}
		view.Problems = config.Problems{{File: name, What: err.Error()}}
	}
	if err != nil {
		return view
	}
	view.Notes = append(view.Notes, f.Notes...)
	for i := range f.Tunnels {
		view.Tunnels = append(view.Tunnels, viewTunnel(&f.Tunnels[i]))
	}
	return view
}

func viewTunnel(t *config.Tunnel) tunnelView {
	limits := t.Lifetime.Limits()
	view := tunnelView{
		Name: t.Name, Mode: string(t.Mode), Selectors: texts(t.Selectors), Bypass: texts(t.Bypass),
		Encap: string(t.Encap.Type), Port: t.Encap.Port, ESN: string(t.ESN), Window: uint32(t.Window), KeyBits: t.KeySize,
		Limits: limitsOfView{
			uint64(limits.SoftTime / time.Second), uint64(limits.HardTime / time.Second),
			limits.SoftBytes, limits.HardBytes, limits.SoftPackets, limits.HardPackets,
		},
		IfID: t.IfID, Engine: string(t.Engine), Offload: string(t.Offload), SAs: t.SAs.String(),
	}
	if t.Rotate.Every == config.Never {
		view.Rotate.Never = true
	} else {
		view.Rotate = rotateView{EverySeconds: uint64(time.Duration(t.Rotate.Every) / time.Second), AtMostSharePercent: uint8(t.Rotate.AtMostShare)}
	}
	if t.Mark.Mask != 0 {
		view.Mark = t.Mark.String()
	}
	if t.OutputMark.Mask != 0 {
		view.OutputMark = t.OutputMark.String()
	}
	for _, h := range t.Hosts {
		host := hostView{Address: h.Address.String(), Dev: h.Dev, Sudo: string(h.Sudo)}
		if len(h.Subnets) > 0 {
			host.Subnets = texts(h.Subnets)
		}
		if h.SSH != nil {
			host.SSH = h.SSH.To
		}
		view.Hosts = append(view.Hosts, host)
	}
	for _, p := range t.Pairs {
		pair := meshPairView{A: p.A.Address.String(), B: p.B.Address.String(), Bypass: viewEntries(p.Bypass)}
		for _, l := range p.Lanes {
			pair.Lanes = append(pair.Lanes, laneView{l.RequestID, viewEntries(l.Protect)})
		}
		view.Pairs = append(view.Pairs, pair)
	}
	return view
}

func viewEntries(entries []config.Entry) []entryView {
	views := []entryView{}
	for _, e := range entries {
		view := entryView{selectorView{Src: e.Selector.Src.String(), Dst: e.Selector.Dst.String()}, e.Priority}
		if e.Selector.Protocol != 0 {
			view.Proto = config.Protocol(e.Selector.Protocol).String()
		}
		view.SPort, view.DPort = plainPort(e.Selector.SrcPort), plainPort(e.Selector.DstPort)
		views = append(views, view)
	}
	return views
}

func plainPort(m ipsec.PortMatch) *uint16 {
	if m.Any() {
		return nil
	}
	return &m.Value
}

func texts[T interface{ String() string }](of []T) []string {
	list := make([]string, len(of))
	for i, t := range of {
		list[i] = t.String()
	}
	return list
}
