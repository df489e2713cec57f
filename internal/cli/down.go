package cli

import (
	"context"

	"github.com/spf13/cobra"

	"espalier/tunnel"
)

const downLong = `Take the tunnels of FILE away on all their hosts: policies, SAs, guard, timer, and what espalier knew of
them. From then on their traffic goes in clear again.

It is done in steps as apply does it, so that running traffic is not dropped, and undone if a host
cannot be reached any more before it was confirmed. FILE is taken as it was applied last. SAs and
policies that are not of FILE are not touched.

A host that is gone for good keeps the others from nothing: --without HOST takes away what they have. What
HOST has stays, and it takes nothing in clear from them, until espalier down FILE reaches it, by an address
that is not protected.

When it ends, nothing of FILE is left on any host: no process, no unit, no file but the record of used keys (in
it are no keys). Only if not all hosts have said that they are done, what the others noted goes two
--confirm-timeout later, for a host that is late may still ask.

Exit status: 0 if nothing of FILE is in force (but on HOSTs left out), 1 if everything is as it was before (or, "unclear", the hosts
still have to agree), 2 for a wrong command line.`

func newDownCommand() *cobra.Command {
	r := &tunnelRun{kind: tunnel.Down}
	cmd := &cobra.Command{
		Use:     "down FILE",
		Short:   "Take the tunnels of a file away on all their hosts",
		Long:    downLong,
		Example: `  espalier down tunnels.yaml`,
		Args:    usageArgs(oneFile),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.begin(cmd); err != nil {
				return err
			}
			path, err := wholePath(args[0])
			if err != nil {
				return err
			}
			c, err := r.down(cmd.Context(), path)
			return r.conclude("down", c, err)
		},
	}
	r.addFlags(cmd, "output")
	r.addWithout(cmd)
	r.addYes(cmd)
	return cmd
}

func (r *tunnelRun) down(ctx context.Context, path string) (*change, error) {
	text, err := applied(path)
	if err != nil {
		return nil, err
	}
	c, err := r.open(ctx, path, text)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.make(tunnel.Options{Kind: tunnel.Down}); err != nil {
		return nil, err
	}
	if c.plan.Changes() {
		if err := r.ask(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := r.carryOut(ctx, c); err != nil {
		return c, err
	}
	return c, r.forget(c)
}
