package cli

import (
	"context"
	"fmt"
	"os"
	"slices"

	"espalier/deploy"
	"espalier/remote"
	"espalier/tunnel"
)

// alone tries whether the timer that apply installs can log in to the hosts: what lets a person in may be
// an agent or a password. If it cannot, SAs whose sequence numbers end are refused; others last, and it is
// noted in the end.
func (r *tunnelRun) alone(ctx context.Context, c *change) error {
	place, err := tunnelPlace()
	if err != nil {
		return err
	}
	if ok, _ := place.Can(); !ok || os.Getenv("SSH_AUTH_SOCK") == "" && !remote.HasTerminal() {
		return nil // it is said elsewhere, or the hosts were reached as the timer reaches them
	}
	err = deploy.Alone(ctx, c.hosts)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if ends(c.plan) {
		return &exitError{exitFailed, fmt.Errorf("nothing was changed: without ESN sequence numbers end, and the timer that rotates SAs cannot log in: "+
			"it has no ssh-agent and no terminal\n%w\nGive root here a key without passphrase for it (ssh: {to: …, identity: FILE}), or write esn: on", err)}
	}
	c.notAlone = err
	return nil
}

// ends reports whether a plan has SAs whose sequence numbers end within hours.
func ends(plan *tunnel.Plan) bool {
	return slices.ContainsFunc(plan.Pairs, func(p tunnel.Pair) bool { return p.Action != tunnel.Remove && !p.ESN })
}

// noteAlone tells that SAs will not be rotated by themselves.
func (r *tunnelRun) noteAlone(c *change) {
	if c.notAlone != nil {
		fmt.Fprintf(r.stderr, "note: the timer that rotates SAs cannot log in, for it has no ssh-agent and no terminal:\n%v\n"+
			"give root here a key without passphrase for it (ssh: {to: …, identity: FILE}), or run espalier rotate --due yourself\n", c.notAlone)
	}
}
