// Package cli is the command line of espalier. Arguments flow in; text, JSON and an exit
// code flow out. Each command is made by a function of its own and knows nothing of the
// others.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Main runs one command and returns its exit code. Results go to stdout, everything else to
// stderr; where a document was asked for (-o json, yaml) a failure is one. It returns early when ctx ends, with what the command began undone.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	out := &results{Writer: stdout}
	root.SetOut(out)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && ctx.Err() != nil {
		err = &exitError{exitStopped, interrupted(err)}
	}
	if err != nil {
		out.fail(cmd, args, err)
	}
	if err != nil && err.Error() != "" {
		fmt.Fprintln(stderr, err)
	}
	return exitCode(err)
}

// interrupted leaves out what only says so in other words; what else went wrong on the way out
// is told.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return fmt.Errorf("interrupted: %w", err)
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "espalier",
		Short: "IPsec ESP with AES-GCM at line rate, proven and closed when it fails",
		Long: `IPsec ESP with AES-GCM for Linux hosts: by the NIC where it can, by the kernel or a
userspace device where it cannot.`,
		Example: `  espalier                            # who encrypts what: espalier status
  espalier demo                       # see it work, without any NIC
  espalier doctor                     # can this host offload, and if not, why not?
  espalier pair root@db2              # protect all traffic with another host
  espalier apply tunnels.yaml         # tunnels from a file, on all their hosts
  espalier dataplane --dev p4p1       # a userspace offload device behind p4p1
  espalier xfrm state list            # its SAs, or the kernel's`,
		Args:          usageArgs(unknownCommand),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	status := newStatusCommand()
	root.RunE = func(cmd *cobra.Command, args []string) error {
		status.SetContext(cmd.Context())
		return status.RunE(status, args)
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath()))
	})
	root.AddCommand(
		status, newVerifyCommand(), newExplainCommand(), newDoctorCommand(), newAcceptCommand(),
		newPlanCommand(), newApplyCommand(), newRotateCommand(), newDownCommand(), newPairCommand(),
		newConfigCommand(), newLintCommand(), newImportCommand(),
		newDemoCommand(), newDataplaneCommand(), newXfrmCommand(),
		newCompletionCommand(), newVersionCommand(), newRemoteAgentCommand(), newBootCommand(), newHoldCommand(), newTunnelKeeperCommand(),
	)
	return root
}

// usageArgs makes what is wrong with the arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError(fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath()))
		}
		return nil
	}
}

func unknownCommand(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("there is no command %q", shorten(args[0]))
	}
	return nil
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("there is no place for %q", shorten(args[0]))
	}
	return nil
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  espalier version",
		Args:    usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return errors.New("built without version information")
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "espalier %s %s\n", info.Main.Version, info.GoVersion)
			return err
		},
	}
}
