package lint

// Finding is one thing that is wrong.
type Finding struct {
	ID       ID       `json:"id"`
	Severity Severity `json:"severity"`
	About    string   `json:"about"` // the policy or SA, for a person
	Text     string   `json:"text"`  // what is wrong and what comes of it
	Fix      string   `json:"fix"`   // what to do
	// States and Policies that it is about, by their place in what was checked.
	States   []int `json:"-"`
	Policies []int `json:"-"`
}

// ID names a kind of finding, and stays the same.
type ID string

const (
	// ReqidMismatch: a policy asks for another reqid than the SA between its addresses has.
	ReqidMismatch ID = "reqid-mismatch"
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
	// CleartextAllowed: a policy lets packets out in clear as long as no SA serves it.
	CleartextAllowed ID = "level-use"
	// HalfOffloaded: packet offload of an SA, and its policy is not offloaded, or the other way round.
	HalfOffloaded ID = "half-offloaded"
	// Larval: an SA is waited for.
	Larval ID = "larval"
)

// Severity of a finding.
type Severity string

const (
	Error   Severity = "error"   // traffic does not pass, or passes in clear
	Warning Severity = "warning" // it is not as safe, or not as fast, as it seems
	Note    Severity = "note"    // it may be as it should
)
