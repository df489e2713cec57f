package host

import (
	"net/netip"
	"slices"
	"time"

	"espalier/deploy/steps"
	"espalier/guard"
	"espalier/tunnel"
)

// journalVersion is that of the journal's form.
const journalVersion = 1

// Journal is what espalier owns in one network namespace, and how far the last change has come. There
// is no key in it.
type Journal struct {
	Version   int         `json:"version"`
	Owned     []Owned     `json:"owned,omitempty"`
	Change    *Change     `json:"change,omitempty"`    // the last one, also when it is over
	Debts     []*Change   `json:"debts,omitempty"`     // former ones, of which something is still tried again
	Lingering []Lingering `json:"lingering,omitempty"` // SAs of changes that were undone
	Detours   []Detour    `json:"detours,omitempty"`   // ssh that goes outside of tunnels
	Held      []uint16    `json:"held,omitempty"`      // UDP ports that somebody may hold for us: as long as the journal has them, they are asked to end
}

// Owned is this host's side of a pair, as it was set up last.
type Owned struct {
	Tunnel   string          `json:"tunnel"`
	Origin   string          `json:"origin"` // the coordinator's file
	Local    netip.Addr      `json:"local"`
	Remote   netip.Addr      `json:"remote"`
	Engine   string          `json:"engine"`
	Device   string          `json:"device"`
	Policies []Policy        `json:"policies,omitempty"` // as they are to be: processing that is required
	Outbound []tunnel.SAID   `json:"outbound,omitempty"` // of the present generation
	Inbound  []tunnel.SAID   `json:"inbound,omitempty"`
	Encaps   []guard.Encap   `json:"encaps,omitempty"`
	Rotate   tunnel.Rotation `json:"rotate,omitzero"`
	// Of the present generation: when it began by the time of day, for people, and by Clock.Now of a boot.
	Since  time.Time     `json:"since"`
	Begun  time.Duration `json:"begun"`
	BootID string        `json:"boot_id"`
	// Undecided says that a change of the pair was confirmed here and gave way to another one before the
	// peer was heard: there are SAs of two generations.
	Undecided bool `json:"undecided,omitempty"`
	// Opened says that it was to go: what is sent in clear is not held back.
	Opened bool `json:"opened,omitempty"`
	// Detours are the ssh that the pair protects, by which it can be made anew.
	Detours []tunnel.Detour `json:"detours,omitempty"`
}

// Policy is the payload of a NEWPOLICY, and in words which it is.
type Policy struct {
	Payload []byte `json:"payload"`
	Text    string `json:"text"`
}

// Change is a change on this host. Times are those of Clock.Now, of the boot BootID.
type Change struct {
	Begin     steps.BeginQuestion `json:"begin"`
	Stage     steps.Stage         `json:"stage"`
	Since     time.Time           `json:"since"` // the time of day, for people
	BootID    string              `json:"boot_id"`
	Begun     time.Duration       `json:"begun"`
	Deadline  time.Duration       `json:"deadline"`
	Confirmed time.Duration       `json:"confirmed,omitempty"` // when it was
	Later     time.Duration       `json:"later,omitempty"`     // how much later than Deadline some peer's is
	Ended     time.Duration       `json:"ended,omitempty"`     // when it was finished or undone
	Closing   time.Duration       `json:"closing,omitempty"`   // when old SAs go, since it was told to finish
	Settled   bool                `json:"settled,omitempty"`   // all hosts are known to have finished it
	Probed    bool                `json:"probed,omitempty"`    // the peers' probes were seen
	Guarded   bool                `json:"guarded,omitempty"`   // what lasts was changed
	Again     bool                `json:"again,omitempty"`     // what lasts could not be put back, and is tried again
	Pairs     []PairState         `json:"pairs"`               // one for each of Begin.Pairs
	Problem   string              `json:"problem,omitempty"`
}

// PairState is how far one pair of a change has come.
type PairState struct {
	Before []Policy      `json:"before,omitempty"` // the policies of its selectors that were there, as read back
	Was    *Owned        `json:"was,omitempty"`    // what was owned of it
	Encaps []guard.Encap `json:"encaps,omitempty"`
	// Stage is Finished or Undone once that is done, while the change's is still Confirmed or Undone.
	Stage steps.Stage `json:"stage,omitempty"`
	Again bool        `json:"again,omitempty"` // some of it has failed, and is tried again
}

// Lingering is an inbound SA of a change that was undone: the peer may still send by it.
type Lingering struct {
	Tunnel  string        `json:"tunnel"`
	Engine  string        `json:"engine"`
	ID      tunnel.SAID   `json:"id"`
	BootID  string        `json:"boot_id"`
	Since   time.Duration `json:"since"`
	Timeout time.Duration `json:"timeout"` // of the change
	// Old are the inbound SAs that the peer sends by once it has undone the change as well.
	Old    []tunnel.SAID `json:"old,omitempty"`
	Heard  bool          `json:"heard,omitempty"` // the peer does
	Encaps []guard.Encap `json:"encaps,omitempty"`
}

// open reports whether the change is neither finished nor undone.
func (c *Change) open() bool {
	return c != nil && (c.Stage == steps.Open || c.Stage == steps.Confirmed)
}

// owner finds the pair that is owned between two addresses by a tunnel; -1 if none is.
func (j *Journal) owner(tunnelName string, local, remote netip.Addr) int {
	return slices.IndexFunc(j.Owned, func(o Owned) bool {
		return o.Tunnel == tunnelName && o.Local == local && o.Remote == remote
	})
}
