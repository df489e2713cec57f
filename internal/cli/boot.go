package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"espalier/deploy/boot"
	"espalier/deploy/host"
)

// newBootCommand is what a host runs before its network comes up. People have no use for it.
func newBootCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:    "boot",
		Short:  "Load the guard of this host's tunnels",
		Hidden: true,
		Args:   usageArgs(noArgs),
		RunE:   func(cmd *cobra.Command, _ []string) error { return bootHost(cmd.Context(), dir) },
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the `DIRECTORY` of the tunnels' state, if it is not that of this network namespace")
	return cmd
}

// bootHost loads the guard first; nothing that comes later keeps it from being there.
func bootHost(ctx context.Context, dir string) error {
	if dir == "" {
		var err error
		if dir, err = host.Dir(stateDir()); err != nil {
			return err
		}
	}
	p, err := boot.Find(dir)
	if err != nil {
		p = &boot.Place{Dir: dir} // the guard needs no more
	}
	done := func() {}
	if h, err := tunnelHostAt(dir); err == nil {
		p.Bare, done = h.Bare(ctx)
	}
	defer done()
	_, loadErr := p.Load(ownedAtBoot(dir))
	return errors.Join(loadErr, err, p.Resume(ctx), settleBoot(ctx, dir))
}
