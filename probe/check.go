package probe

// Answer to one question about a host. The zero value says that nobody knows.
type Answer uint8

const (
	Unknown Answer = iota
	Yes
	No
)

// String is "unknown", "yes" or "no", as in JSON.
func (a Answer) String() string {
	switch a {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "unknown"
}

// MarshalText is String, for JSON and YAML.
func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText writes. Words of a later version are Unknown.
func (a *Answer) UnmarshalText(text []byte) error {
	*a = Unknown
	for _, known := range []Answer{Yes, No} {
		if known.String() == string(text) {
			*a = known
		}
	}
	return nil
}

// Weight is how much depends on a check. Yes is always the good answer: what is a trap is asked
// the other way round ("no rule drops protocol 50").
type Weight uint8

const (
	Informs  Weight = iota // worth knowing; changes no verdict
	Warns                  // a No costs speed, safety or packets, not the offload itself
	Required               // without a Yes there is no crypto offload
)

// String is "informs", "warns" or "required", as in JSON.
func (w Weight) String() string {
	switch w {
	case Required:
		return "required"
	case Warns:
		return "warns"
	}
	return "informs"
}

// MarshalText is String, for JSON and YAML.
func (w Weight) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText reads what MarshalText writes. Words of a later version inform.
func (w *Weight) UnmarshalText(text []byte) error {
	*w = Informs
	for _, known := range []Weight{Warns, Required} {
		if known.String() == string(text) {
			*w = known
		}
	}
	return nil
}

// Evidence is what an answer rests on.
type Evidence struct {
	Source string `json:"source"` // a file, a command that shows the same, or a table of ours
	Value  string `json:"value"`  // what it says; "" if it could not be read, and then why stands in Check.Why
}

// Check is one question, answered.
type Check struct {
	ID     string `json:"id"`    // stable, for programs: "kernel.xfrm-offload"
	Title  string `json:"title"` // for people: "INET_ESP_OFFLOAD"
	Answer Answer `json:"answer"`
	Weight Weight `json:"weight"`
	Why    string `json:"why"` // one line: "not set", "module esp4_offload can be loaded"; for Unknown what stood in the way
	// Cause is Why without what is this check's own: those of one layer with the same Answer and Cause have it from
	// the same. "" for none.
	Cause    string     `json:"cause,omitempty"`
	Evidence []Evidence `json:"evidence,omitempty"`
	Fix      string     `json:"fix,omitempty"` // what to do about a No, on this distribution
	// Tried says that this was not concluded but seen: a Yes outweighs whatever else is missing or
	// not known.
	Tried bool `json:"tried,omitempty"`
}

// Layer is what the checks of one layer came to, in the order they were asked.
type Layer struct {
	Name    string  `json:"name"`              // "kernel", "NIC", "driver and firmware", "topology", …
	Summary string  `json:"summary,omitempty"` // one line for people: "ConnectX-7, firmware 28.39.1002, 100 Gb/s"
	Checks  []Check `json:"checks"`
}
