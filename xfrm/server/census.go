package server

import (
	"context"

	"espalier/ipsec"
)

// census asks the database how much it holds, and counts if it does not know.
func census(ctx context.Context, db ipsec.Database) (ipsec.Census, error) {
	if c, ok := db.(ipsec.Countable); ok {
		return c.Census(ctx)
	}
	n := ipsec.Census{Policies: map[ipsec.Direction]int{}}
	for _, err := range db.SAs(ctx) {
		if err != nil {
			return n, err
		}
		n.SAs++
	}
	for p, err := range db.Policies(ctx) {
		if err != nil {
			return n, err
		}
		n.Policies[p.Direction]++
	}
	return n, nil
}
