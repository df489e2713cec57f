package ipsec

import "context"

// Census is how much a SAD and an SPD hold.
type Census struct {
	SAs      int
	Policies map[Direction]int // nil for none
}

// Countable is offered by engines that know how much they hold without listing it.
type Countable interface {
	Census(context.Context) (Census, error)
}
