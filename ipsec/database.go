package ipsec

import (
	"context"
	"errors"
	"iter"
	"net/netip"
)

// Errors of a SAD or SPD. They are wrapped with the operation, the object and the
// engine's own words; test with errors.Is.
var (
	ErrExist       = errors.New("already exists")
	ErrNotExist    = errors.New("does not exist")
	ErrInvalid     = errors.New("invalid")       // no engine would take it
	ErrUnsupported = errors.New("not supported") // this engine does not do it, another may
	ErrRange       = errors.New("out of range")  // a number beyond what this engine has, as of a CPU
)

// SAD is a Security Association Database (RFC 4301 §4.4.2). The kernel's and the userspace
// device's behave alike; where they do not, one of them has a bug. All methods are safe
// for concurrent use.
type SAD interface {
	// AddSA installs a new SA; ErrExist if its ID is taken, if only by a larval SA. The Key
	// becomes the SAD's, which may wipe it, whether it takes the SA or not. A larval SA
	// without an SPI that waits for this one goes.
	AddSA(context.Context, SA) error
	// UpdateSA puts the SA in the place of the larval SA with its ID, or changes Encap, Limits
	// and Selector-independent settings of a live SA. The key, mode and sequence numbers of a
	// live SA never change. ErrNotExist if there is none, or one of another Direction.
	UpdateSA(context.Context, SA) error
	// AllocateSPI gives a larval SA an SPI that no other SA with its destination has, and
	// makes the larval SA if there is none. It returns that. ErrNotExist if all of the range
	// is taken.
	AllocateSPI(context.Context, SPIRequest) (SA, error)
	DeleteSA(context.Context, SAID) error
	LookupSA(context.Context, SAID) (SA, error)
	// SAs iterates over a snapshot. An error ends the iteration.
	SAs(context.Context) iter.Seq2[SA, error]
	FlushSAs(context.Context) error
}

// SPIRequest asks for an SPI (RFC 2367 §3.1.1). AcquireID, if not 0, names the larval SA that is
// to have it.
type SPIRequest struct {
	Src, Dst  netip.Addr
	Mode      Mode
	Direction Direction
	RequestID uint32
	AcquireID uint32
	Min, Max  SPI // the range, both included
}

// SPD is a Security Policy Database (RFC 4301 §4.4.1). All methods are safe for
// concurrent use.
type SPD interface {
	// AddPolicy installs a new policy; ErrExist if direction and selector are taken.
	AddPolicy(context.Context, Policy) error
	// UpdatePolicy installs the policy in place of one with the same direction and
	// selector, if there is one.
	UpdatePolicy(context.Context, Policy) error
	DeletePolicy(context.Context, PolicyID) error
	LookupPolicy(context.Context, PolicyID) (Policy, error)
	Policies(context.Context) iter.Seq2[Policy, error]
	FlushPolicies(context.Context) error
}

// Database is both halves, as one engine offers them.
type Database interface {
	SAD
	SPD
}
