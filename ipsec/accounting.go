package ipsec

import "context"

// DropCount is how many packets an engine dropped for one reason since it started.
type DropCount struct {
	Reason  string // the engine's own name for it, such as "no-sa"
	Counter string // the line of /proc/net/xfrm_stat that counts it on Linux, "" if none
	Meaning string // for a person
	Packets uint64
}

// Accounting is offered by engines that type and count their drops. Reasons that never
// occurred are listed with 0.
type Accounting interface {
	Drops(context.Context) ([]DropCount, error)
}
