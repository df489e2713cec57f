package deploy

import (
	"net/netip"

	"espalier/deploy/steps"
	"espalier/tunnel"
	"espalier/verdict"
)

// Result is what a change came to.
type Result string

const (
	Unchanged  Result = "unchanged"   // everything was as it is to be
	Confirmed  Result = "confirmed"   // on all hosts
	RolledBack Result = "rolled back" // everything is as it was, or will be: see Hosts
	NotMet     Result = "unmet"       // rolled back, because a NIC does not do what the file requires
	Unclear    Result = "unclear"     // some hosts have confirmed it, and others do not say: they agree by themselves
)

// Report is what a change came to, without anything secret.
type Report struct {
	Result Result       `json:"result"`
	Why    string       `json:"error,omitempty"` // it is not confirmed, or what went wrong once it was
	Hosts  []HostReport `json:"hosts"`
	Pairs  []PairReport `json:"pairs"`
	SAs    []SAReport   `json:"sas"` // that were added
}

// HostReport is how far one host has come.
type HostReport struct {
	Name    string      `json:"name"`
	Stage   steps.Stage `json:"stage"`            // as far as is known; "" is nothing
	Silent  bool        `json:"silent,omitempty"` // it could not be asked in the end
	Problem string      `json:"problem,omitempty"`
}

// PairReport is a pair of the plan.
type PairReport struct {
	Tunnel string        `json:"tunnel"`
	A      netip.Addr    `json:"a"`
	B      netip.Addr    `json:"b"`
	Action tunnel.Action `json:"action"`
	Why    []string      `json:"why,omitempty"`
}

// SAReport is an SA as it was read back, and who encrypts its traffic.
type SAReport struct {
	Host      string          `json:"host"`
	Tunnel    string          `json:"tunnel"`
	Direction string          `json:"dir"` // in or out
	SPI       string          `json:"spi"`
	Src       netip.Addr      `json:"src"`
	Dst       netip.Addr      `json:"dst"`
	Offload   string          `json:"offload"` // that was granted: no, crypto, packet
	ESN       bool            `json:"esn"`
	Window    uint32          `json:"window"`
	Verdict   verdict.Verdict `json:"verdict,omitempty"`
	Reason    string          `json:"reason,omitempty"`

	engine string
}

// reportOf is what a plan is about, before anything is done.
func reportOf(plan *tunnel.Plan) *Report {
	r := &Report{Result: Unchanged, Hosts: []HostReport{}, Pairs: []PairReport{}, SAs: []SAReport{}}
	for i := range plan.Pairs {
		p := &plan.Pairs[i]
		e := p.Ends[0]
		if !e.Local.IsValid() {
			e.Local, e.Remote = p.Ends[1].Remote, p.Ends[1].Local
		}
		r.Pairs = append(r.Pairs, PairReport{p.Tunnel, e.Local, e.Remote, p.Action, p.Why})
	}
	return r
}

// add tells of what hosts came to.
func (r *Report) add(parts []*part) {
	for _, p := range parts {
		r.Hosts = append(r.Hosts, HostReport{p.name, p.stage, p.silent, p.problem})
		if r.Result == Confirmed || r.Result == Unclear {
			r.SAs = append(append(r.SAs, p.inbound.sas...), p.outbound.sas...)
		}
	}
}
