package tunnel

import (
	"iter"
	"net/netip"

	"espalier/config"
	"espalier/ipsec"
)

// Plan is what is to change on some hosts.
type Plan struct {
	Hosts []Host
	Pairs []Pair // in the order of the file; behind them those that are to go
}

// Host is a machine (a network namespace) of a plan, once, however many addresses of it take part.
type Host struct {
	Name string // for people: the ssh destination, or the name of this host
	// SSH is how it is reached, as the file says; the zero value is the host that commands are given on.
	SSH   config.SSH
	Facts *Facts
}

// Action is what is to become of a pair.
type Action string

const (
	Keep    Action = "keep"    // everything is as the file says
	Create  Action = "create"  // there is nothing of it yet
	Adjust  Action = "adjust"  // policies change, or what lasts is put back; SAs stay
	Replace Action = "replace" // new SAs take the place of those that are there
	Remove  Action = "remove"  // it is no longer in the file
)

// Changes reports whether there is anything to do.
func (p *Plan) Changes() bool {
	for i := range p.Pairs {
		if p.Pairs[i].Action != Keep {
			return true
		}
	}
	return false
}

// EndsOf are a host's ends of the pairs that change, in the order of the plan.
func (p *Plan) EndsOf(host int) iter.Seq2[*End, *Pair] {
	return func(yield func(*End, *Pair) bool) {
		for i := range p.Pairs {
			pair := &p.Pairs[i]
			for j := range pair.Ends {
				if e := &pair.Ends[j]; pair.Action != Keep && e.Host == host && e.Local.IsValid() && !yield(e, pair) {
					return
				}
			}
		}
	}
}

// Pair is two hosts of a tunnel.
type Pair struct {
	Tunnel  string         // name
	Of      *config.Tunnel // nil if it is no longer in the file
	Action  Action
	Adopt   bool     // what is there and nobody's is taken over
	Yielded string   // the file that it is of by now, so that it stays as it is; "" if it is this one
	Why     []string // what differs from what is there, in words
	Choices []Choice // what was left open in the file
	Notes   []string // what traffic will see
	Rotate  Rotation // when its SAs are due to be replaced
	ESN     bool     // sequence numbers are of 64 bits
	// OneSided is a pair that goes at one end, and the other is not asked.
	OneSided bool
	// Refuses says that a policy which receives is to take packets by other SAs than it does now, and those
	// no more.
	Refuses bool
	Speed   uint32 // of the faster link, in Mb/s, as it is reckoned with
	Ends    [2]End // the file's A, B
}

// Choice is a setting that was chosen here, and why.
type Choice struct {
	Setting string `json:"setting"` // "offload", "esn", "window", "engine", "sas"
	Value   string `json:"value"`
	Why     string `json:"why"`
}

// End is one host's side of a pair. One whose Local is not valid does not exist: a pair that is to
// be removed may be left on one host only.
type End struct {
	Host          int    // in Plan.Hosts
	Engine        string // "kernel", or "unix:PATH" of a userspace device
	Device        string // network device that has Local
	Local, Remote netip.Addr
	Former        string // what the tunnel is called here until now; "" if that does not change
	// Queues of the userspace device, which an inbound SA's packets are spread over by its SPI; 0: of
	// the kernel, which does not look at it.
	Queues int
	// Outbound and Inbound are the SAs it is to get: Outbound[i] of one end and Inbound[i] of the
	// other are the same SA. They have neither SPI nor key before Fill. Empty if SAs stay.
	Outbound, Inbound []SA
	// Policies are all the pair is to have here, in their order, with processing that is required.
	Policies []Policy
	// Gone are the policies that it has here, and is not to have any more.
	Gone []Policy
	// Old are SAs that are deleted once the new ones carry the traffic.
	Old []SAID
	// Detours are the ssh connections by which the hosts of the plan are reached, as far as the pair protects them.
	Detours []Detour
}

// SA is an SA with what only Linux has words for.
type SA struct {
	ipsec.SA
	Mark, OutputMark config.Mark
	IfID             uint32
}

// SAID names an SA that is there.
type SAID struct {
	ipsec.SAID
	Src  netip.Addr  `json:"src"`
	Mark config.Mark `json:"mark,omitzero"`
}

// Policy is a policy with what only Linux has words for.
type Policy struct {
	ipsec.Policy
	Mark    config.Mark
	IfID    uint32
	Offload ipsec.Offload // packet offload of the policy
}
