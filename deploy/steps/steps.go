package steps

import (
	"net/netip"
	"time"

	"espalier/tunnel"
)

// Names of the operations, in the order in which a change goes. Each but Facts and State names the
// change, may be asked for again, and then does nothing.
const (
	Facts    = "tunnel-facts"    // FactsQuestion → tunnel.Facts
	State    = "tunnel-state"    // nothing → Progress
	Begin    = "tunnel-begin"    // BeginQuestion → Progress
	Inbound  = "tunnel-inbound"  // SAsQuestion → SAsAnswer
	Outbound = "tunnel-outbound" // SAsQuestion → SAsAnswer
	Policies = "tunnel-policies" // PoliciesQuestion → Progress
	Probe    = "tunnel-probe"    // ProbeQuestion → ProbeAnswer
	Guard    = "tunnel-guard"    // Question → Progress
	Confirm  = "tunnel-confirm"  // Question → Progress
	Finish   = "tunnel-finish"   // Question → Progress
	Forget   = "tunnel-forget"   // Question → Progress: all hosts of the change have finished it
	Undo     = "tunnel-undo"     // Question → Progress
	Detour   = "tunnel-detour"   // DetourQuestion → DetourAnswer; of no change
)

// Kind of a change.
type Kind string

const (
	Apply  Kind = "apply"
	Rotate Kind = "rotate"
	Down   Kind = "down"
)

// Stage is how far a change has come on one host.
type Stage string

const (
	None      Stage = ""          // no change, or another one
	Open      Stage = "open"      // is undone when its time is over
	Confirmed Stage = "confirmed" // is not undone by time any more; both generations of SAs are there
	Finished  Stage = "finished"  // only the new generation is left, or nothing after Down
	Undone    Stage = "undone"    // the old generation sends; new inbound SAs linger
)

// GivesWay is how long after its time-out a confirmed change gives way to another one, although nobody
// has said what became of it: each host has confirmed or undone it by then, and those that can hear each
// other have.
const GivesWay = 20 * time.Second

// FactsQuestion asks what a host is and has.
type FactsQuestion struct {
	SAD string `json:"sad,omitempty"` // as --sad: only this engine counts. "" and auto: all there are
}

// Question names the change it is about.
type Question struct {
	Change string `json:"change"` // random, of the coordinator
	// Later is, with Confirm, how much longer than this one some host of the change has, at least, until it
	// undoes it by itself: as much longer a coordinator may learn of that, and have it undone here; nanoseconds.
	Later time.Duration `json:"later,omitempty"`
}

// BeginQuestion begins a change: the host writes down what it is about to have before anything is
// changed, and sees to its being undone in time.
type BeginQuestion struct {
	Change      string        `json:"change"`
	Kind        Kind          `json:"kind"`
	Coordinator string        `json:"coordinator"` // the host that the command was given on, for people
	Origin      string        `json:"origin"`      // the file there: what is owned under it and is not in it any more may go
	Timeout     time.Duration `json:"timeout"`     // until it is undone unless confirmed; nanoseconds
	Grace       time.Duration `json:"grace"`       // how long old SAs are kept after it is finished; nanoseconds
	Pairs       []PairEnd     `json:"pairs"`
}

// PairEnd is this host's side of a pair in a change. Nothing in it is secret.
type PairEnd struct {
	Tunnel   string          `json:"tunnel"`
	Former   string          `json:"former,omitempty"` // what the tunnel is called here until now, if otherwise
	Action   tunnel.Action   `json:"action"`
	Engine   string          `json:"engine"`
	Device   string          `json:"device"`
	Local    netip.Addr      `json:"local"`
	Remote   netip.Addr      `json:"remote"`
	Outbound []tunnel.SAID   `json:"outbound,omitempty"` // that will be added
	Inbound  []tunnel.SAID   `json:"inbound,omitempty"`
	Old      []tunnel.SAID   `json:"old,omitempty"`      // that are deleted in the end
	Policies [][]byte        `json:"policies,omitempty"` // NEWPOLICY payloads: all the pair is to have
	Gone     [][]byte        `json:"gone,omitempty"`     // NEWPOLICY payloads: those to be deleted
	Rotate   tunnel.Rotation `json:"rotate,omitzero"`    // when these SAs are due to be replaced
	Adopt    bool            `json:"adopt,omitempty"`    // what is out there and nobody's may be taken over
	Detours  []tunnel.Detour `json:"detours,omitempty"`  // ssh that the pair protects
}

// SAsQuestion gives SAs to add. Keys are in them.
type SAsQuestion struct {
	Change string   `json:"change"`
	SAs    [][]byte `json:"sas"` // NEWSA payloads
}

// SAsAnswer tells what was read back of each SA, in the order of the question.
type SAsAnswer struct {
	SAs []ReadBack `json:"sas"`
}

// ReadBack is an SA as the engine has it.
type ReadBack struct {
	Offload string `json:"offload"` // no, crypto or packet: what was granted
	ESN     bool   `json:"esn"`
	Window  uint32 `json:"window"`
	CPU     bool   `json:"cpu"` // tied to a CPU
}

// PoliciesQuestion puts policies in place.
type PoliciesQuestion struct {
	Change string `json:"change"`
	Part   Part   `json:"part"`
}

// Part of the policies.
type Part string

const (
	Accepting Part = "accepting" // bypasses, and in and fwd at level use: they take ESP and cleartext
	Sending   Part = "sending"   // out: from here on what leaves is protected (or, with Down, is not)
	Required  Part = "required"  // in and fwd take nothing in clear any more; what is Gone goes
)

// ProbeQuestion has the host send probes inside all selectors, and wait until it has seen its peers'.
type ProbeQuestion struct {
	Change string        `json:"change"`
	Within time.Duration `json:"within"` // nanoseconds
	// Excused are what peers said that they cannot send: nobody waits for it.
	Excused []Seen `json:"excused,omitempty"`
}

// ProbeAnswer tells which pairs' probes came, decrypted by the new inbound SAs.
type ProbeAnswer struct {
	Seen    []Seen `json:"seen"`
	Missing []Seen `json:"missing,omitempty"`
	// Unsendable are selectors of this host's, as it sends, inside which it cannot: a program has the port.
	Unsendable []Seen `json:"unsendable,omitempty"`
}

// Seen is about the traffic of one selector of a pair, in one direction.
type Seen struct {
	Tunnel    string     `json:"tunnel"`
	Local     netip.Addr `json:"local"` // of the host that says so
	Remote    netip.Addr `json:"remote"`
	Selector  string     `json:"selector,omitempty"` // from its sender to its receiver
	RequestID uint32     `json:"request_id"`
	Packets   uint64     `json:"packets"`
	Why       string     `json:"why,omitempty"` // nothing was seen, or not by all SAs, or cannot be sent
}

// Progress is how far a host has come.
type Progress struct {
	Change  string        `json:"change,omitempty"` // the last change
	Kind    Kind          `json:"kind,omitempty"`
	Stage   Stage         `json:"stage,omitempty"`
	Left    time.Duration `json:"left,omitempty"` // until it is undone; nanoseconds
	Problem string        `json:"problem,omitempty"`
}

// DetourQuestion has the ssh of this host's go to some peers outside of their tunnels, for they may have lost them. It
// does so until a change of the pair makes its policies anew, until the question is put with End, or until the process
// has ended in which it was asked.
type DetourQuestion struct {
	Remotes []netip.Addr `json:"remotes"`
	End     bool         `json:"end,omitempty"`
}

// DetourAnswer tells which tunnels ssh goes outside of.
type DetourAnswer struct {
	Tunnels []string `json:"tunnels,omitempty"`
}
