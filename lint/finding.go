package lint

import "fmt"

// Finding is one thing that is wrong.
type Finding struct {
	ID       ID       `json:"id"`
	Severity Severity `json:"severity"`
	About    string   `json:"about"` // the policy or SA, for a person
	Text     string   `json:"text"`  // what is wrong and what comes of it
	Fix      string   `json:"fix"`   // what to do
	// Counter is the line of /proc/net/xfrm_stat that tells of it, "" if none does.
	Counter string `json:"counter,omitempty"`
	// Of scripts: the host, the place, and other places that it is about.
	Host string `json:"host,omitempty"`
	Place
	Also []Place `json:"also,omitempty"`
	// States and Policies that it is about, by their place in what was checked.
	States   []int `json:"-"`
	Policies []int `json:"-"`

	mend func() ([]edit, string) // of scripts: what would put it right, or why nobody can tell
}

// Place is a line of a script; the zero Place is none.
type Place struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // from 1
}

// Position is FILE:LINE.
func (p Place) Position() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// ID names a kind of finding, and stays the same.
type ID string

// Kinds has them all.
const (
	// ReqidMismatch: a policy asks for another reqid than the SA between its addresses has.
	ReqidMismatch ID = "reqid-mismatch"
	// TemplateMismatch: a policy asks for another mode, if_id, mark, SPI or address than an SA has that is right else.
	TemplateMismatch ID = "template-mismatch"
	// PolicyWithoutSA: no SA serves a policy.
	PolicyWithoutSA ID = "policy-without-sa"
	// SAWithoutPolicy: an SA serves no policy: nothing is sent through it, or asked of what it brings.
	SAWithoutPolicy ID = "sa-without-policy"
	// MissingIn: traffic is protected on its way out, and accepted in clear on its way in.
	MissingIn ID = "missing-in-policy"
	// OneSided: SAs in one direction only.
	OneSided ID = "one-sided"
	// NoReplayWindow: an inbound SA takes packets any number of times.
	NoReplayWindow ID = "window-0"
	// CleartextAllowed: a policy lets packets out in clear as long as no SA serves it, or takes them in clear.
	CleartextAllowed ID = "level-use"
	// HalfOffloaded: packet offload of an SA, and its policy is not offloaded, or the other way round.
	HalfOffloaded ID = "half-offloaded"
	// Larval: an SA is waited for.
	Larval ID = "larval"
	// WrongDirection: an SA says another direction than the policies that it serves.
	WrongDirection ID = "wrong-direction"
	// SASelector: an SA's own selector leaves out traffic of its policy.
	SASelector ID = "sa-selector"

	// NotUnderstood: a line that only a shell can make sense of.
	NotUnderstood ID = "not-understood"
	// BadCommand: a line that ip refuses.
	BadCommand ID = "bad-command"
	// AddedTwice: a line adds what is there already.
	AddedTwice ID = "added-twice"
	// KernelRefuses: an SA that Linux does not take.
	KernelRefuses ID = "kernel-refuses"
	// NICRefuses: an SA that ConnectX and BlueField cards do not offload.
	NICRefuses ID = "nic-refuses"
	// ReservedSPI: an SPI of those that RFC 4303 keeps.
	ReservedSPI ID = "reserved-spi"
	// Limit0: a limit that is reached from the start.
	Limit0 ID = "limit-0"
	// NoESN: sequence numbers of 32 bits end soon.
	NoESN ID = "no-esn"
	// NoIntegrity: encrypted, and not authenticated.
	NoIntegrity ID = "no-integrity"
	// WeakAlgorithm: a cipher or hash that is broken.
	WeakAlgorithm ID = "weak-algorithm"
	// MissingFwd: what comes out of a tunnel for others is dropped.
	MissingFwd ID = "missing-fwd-policy"
	// NeighbourDiscovery: a policy for IPv6 takes neighbour discovery along.
	NeighbourDiscovery ID = "neighbour-discovery"

	// KeyOnCommandLine: a key among the words of a command.
	KeyOnCommandLine ID = "key-on-command-line"
	// KeyReadable: a file with keys that others can read.
	KeyReadable ID = "key-readable"
	// KeyReused: two SAs of one key.
	KeyReused ID = "key-reused"
	// WeakKey: a key that others can guess, or have.
	WeakKey ID = "weak-key"

	// NoPeerSA: the other host has no SA for what this one sends.
	NoPeerSA ID = "no-peer-sa"
	// SPIMismatch, KeyMismatch, AlgorithmMismatch, ESNMismatch, ModeMismatch, EncapMismatch, ReqidDiffers: the two ends of
	// an SA are not the same.
	SPIMismatch       ID = "spi-mismatch"
	KeyMismatch       ID = "key-mismatch"
	AlgorithmMismatch ID = "algorithm-mismatch"
	ESNMismatch       ID = "esn-mismatch"
	ModeMismatch      ID = "mode-mismatch"
	EncapMismatch     ID = "encap-mismatch"
	ReqidDiffers      ID = "reqid-differs"
	// PolicyMismatch: the policies of two hosts are about different traffic.
	PolicyMismatch ID = "policy-mismatch"
)

// Severity of a finding.
type Severity string

const (
	Error   Severity = "error"   // traffic does not pass, or passes in clear
	Warning Severity = "warning" // it is not as safe, or not as fast, as it seems
	Note    Severity = "note"    // it may be as it should
)
