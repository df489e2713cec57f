package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"espalier/deploy/boot"
	"espalier/deploy/host"
	"espalier/remote"
)

// newTunnelKeeperCommand undoes what is not confirmed in time. People have no use for it.
func newTunnelKeeperCommand() *cobra.Command {
	return &cobra.Command{
		Use:    host.KeeperCommand,
		Short:  "Undo changes of tunnels that are not confirmed in time",
		Hidden: true,
		Args:   usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := keepSecrets(); err != nil {
				return err
			}
			h, err := tunnelHost()
			if err != nil {
				return err
			}
			return h.Keep(cmd.Context(), func(err error) { fmt.Fprintln(cmd.ErrOrStderr(), err) })
		},
	}
}

// tunnelHost is this host's part in changes of tunnels, in the network namespace of the process.
func tunnelHost() (*host.Host, error) {
	dir, err := host.Dir(stateDir())
	if err != nil {
		return nil, err
	}
	return tunnelHostAt(dir)
}

// tunnelHostAt is the same, with its journal in a directory that is known.
func tunnelHostAt(dir string) (*host.Host, error) {
	place, err := boot.Find(dir)
	if err != nil {
		return nil, err
	}
	return host.New(host.Config{Dir: dir, Keys: stateDir(), Boot: place, Keeper: host.StartKeeper}), nil
}

// tunnelOperations are the steps of changes that this host serves.
func tunnelOperations() (remote.Operations, error) {
	h, err := tunnelHost()
	if err != nil {
		return nil, err
	}
	return h.Operations(), nil
}
