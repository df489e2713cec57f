package ipsec

import (
	"fmt"
	"net/netip"
	"time"
)

// Action is what the SPD does with traffic (RFC 4301 §4.4.1).
type Action uint8

const (
	Protect Action = iota
	Bypass
	Discard
)

func (a Action) String() string {
	switch a {
	case Protect:
		return "protect"
	case Bypass:
		return "bypass"
	case Discard:
		return "discard"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// Processing says how PROTECT traffic is protected (RFC 4301 §4.4.1.2 "processing info";
// Linux `tmpl`). It does not name an SA: it is matched against the SAD when a packet
// comes by.
type Processing struct {
	Src, Dst  netip.Addr // tunnel endpoints; in transport mode the packet's own addresses count
	SPI       SPI        // 0: any
	Mode      Mode
	RequestID uint32
	// Optional lets traffic pass unprotected while no SA exists (Linux `level use`).
	Optional bool
}

// Policy is one SPD entry. The entry with the lowest Priority whose Selector matches
// decides; of two with equal priority the one added first.
type Policy struct {
	Selector   Selector
	Direction  Direction // Inbound, Outbound or Forward
	Priority   uint32
	Action     Action
	Processing []Processing // for Protect: at least one

	Limits Limits // of time only

	Index       uint32 // assigned by the SPD when 0
	Added, Used time.Time
}

// PolicyID identifies a policy: by Index when that is not 0, else by Selector.
type PolicyID struct {
	Direction Direction
	Index     uint32
	Selector  Selector
}

// ID is the identity of the policy in an SPD: direction and selector.
func (p *Policy) ID() PolicyID { return PolicyID{Direction: p.Direction, Selector: p.Selector} }

func (id PolicyID) String() string {
	if id.Index != 0 {
		return fmt.Sprintf("index %d %s", id.Index, id.Direction)
	}
	return fmt.Sprintf("%s %s", id.Selector, id.Direction)
}
