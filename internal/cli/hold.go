package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"espalier/deploy/boot"
)

// newHoldCommand keeps the sockets by which the kernel takes ESP in UDP. People have no use for it.
func newHoldCommand() *cobra.Command {
	var (
		port                uint16
		supervise, detached bool
	)
	cmd := &cobra.Command{
		Use:    boot.HoldCommand + " --port PORT",
		Short:  "Hold a UDP port for the kernel's ESP",
		Hidden: true,
		Args:   usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case port == 0:
				return usageError(errors.New("--port: which port is to be held?"))
			case supervise:
				return boot.Supervise(cmd.Context(), port, cmd.ErrOrStderr())
			}
			return boot.HoldPort(cmd.Context(), port, detached, cmd.ErrOrStderr())
		},
	}
	cmd.Flags().Uint16Var(&port, "port", 0, "UDP `PORT`")
	cmd.Flags().BoolVar(&supervise, "supervise", false, "start it again when it has ended; descriptors 3 and 4 are given")
	cmd.Flags().BoolVar(&detached, "detached", false, "descriptor 3 is given, to say when the sockets are there")
	return cmd
}
