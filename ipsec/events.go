package ipsec

import "net/netip"

// Event is what an engine tells of its own accord: nobody has asked for it. It is one of the
// types of this file.
type Event interface{ event() }

// SAExpired says that an SA has reached one of its Limits. After a soft one it goes on; after
// a hard one it is gone already. It is told once for each.
type SAExpired struct {
	SA   SA // as it was
	Hard bool
}

// PolicyExpired says that a policy has reached one of its Limits. After a soft one it goes on,
// and the event is repeated while the limit is exceeded; after a hard one it is gone already.
type PolicyExpired struct {
	Policy Policy
	Hard   bool
}

// Acquire says that traffic waits for an SA (RFC 2367 §3.1.6): a policy protects it, and the
// SAD has none for it.
type Acquire struct {
	// SA is the larval SA that stands for the one wanted, with its AcquireID. Its Selector is
	// the packet's.
	SA     SA
	Policy Policy
}

// Progress says that the sequence numbers of an SA have moved, so that another host could take
// it over (Linux "async event").
type Progress struct {
	SA    SA
	Cause ProgressCause
}

// ProgressCause is why Progress is told now.
type ProgressCause uint8

const (
	ByNumbers ProgressCause = iota // Notice.Every was reached
	ByTime                         // Notice.After was
	BySetting                      // somebody set them: Checkpointer
)

// PeerMoved says that the UDP encapsulation of an SA comes from another address or port than
// the SA says. It is told of authentic packets only, once for each such place and then as
// SA.MappingAge says. The SA stays as it is: to follow the peer is for who has its keys.
type PeerMoved struct {
	SA SA
	To netip.AddrPort
}

func (SAExpired) event()     {}
func (PolicyExpired) event() {}
func (Acquire) event()       {}
func (Progress) event()      {}
func (PeerMoved) event()     {}

// Observable is offered by engines that tell events.
type Observable interface {
	// Observe has f called with every event from now on, one after the other, until stop is
	// called. f must neither block nor call the engine. It reports whether somebody heard of
	// the event: an engine that looks for an SA waits only for those who do.
	Observe(f func(Event) (heard bool)) (stop func())
	// WatchProgress turns Progress events on and off. They are off at first, for looking out
	// for them costs time.
	WatchProgress(on bool)
}
