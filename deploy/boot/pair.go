package boot

import (
	"net/netip"

	"espalier/guard"
)

// Pair is what the guard has to know of a pair of hosts that this one is of.
type Pair struct {
	Tunnel string     `json:"tunnel"`
	Local  netip.Addr `json:"local"`
	Remote netip.Addr `json:"remote"`
	// Device is that of the userspace engine, which has a guard of its own while it runs; "": the
	// kernel's ESP.
	Device string `json:"device,omitempty"`
	// Policies are all of the pair's, in, fwd and out, with its bypasses, as they are to be in the end.
	// Those with an if_id are left out: without its interface nothing of them leaves at all.
	Policies []guard.HostPolicy `json:"policies"`
	// Encaps are the ends of its UDP encapsulation, if it has any.
	Encaps []guard.Encap `json:"encaps,omitempty"`
	// Detours are the ssh that may pass while the pair is Open: it has no SAs here, or the peer seems to have none.
	Detours []guard.Detour `json:"detours,omitempty"`
	Open    bool           `json:"-"`
}
