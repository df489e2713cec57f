package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"sync"

	"github.com/spf13/cobra"

	"espalier/accept"
	"espalier/deploy/steps"
	"espalier/remote"
)

// remoteCommands are those that other hosts may be asked for. They run in the process that serves
// the connection, and so end with it.
var remoteCommands = []string{"doctor", "status", "xfrm"}

// remoteOperations are what this host does for others over ssh, by name.
func remoteOperations() remote.Operations {
	ops := accept.Operations(func(ctx context.Context, name string, q remote.CommandQuestion) remote.CommandAnswer {
		var stdout, stderr bytes.Buffer
		code := Main(ctx, append([]string{name}, q.Arguments...), bytes.NewReader(q.Stdin), &stdout, &stderr)
		return remote.CommandAnswer{Code: code, Stdout: stdout.Bytes(), Stderr: stderr.String()}
	})
	for _, name := range remoteCommands {
		ops[name] = remote.Command(func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
			return Main(ctx, append([]string{name}, args...), stdin, stdout, stderr)
		})
	}
	ops[steps.Facts] = remote.JSON(answerFacts)
	ops[verifyReceipt] = remote.JSON(answerReceipt)
	tunnels, err := tunnelOperations()
	if err != nil { // of this host alone
		tunnels = remote.Operations{steps.Facts: func(context.Context, []byte, remote.Progress) ([]byte, error) { return nil, err }}
	}
	maps.Copy(ops, tunnels)
	return ops
}

// newRemoteAgentCommand is the far side of a connection. People have no use for it.
func newRemoteAgentCommand() *cobra.Command {
	var copied bool
	cmd := &cobra.Command{
		Use:    remote.AgentCommand + " [--copy] NONCE",
		Short:  "Serve another host's espalier on standard input and output",
		Hidden: true,
		Args:   usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := keepSecrets(); err != nil {
				return err
			}
			debug.SetGCPercent(lavishGC) // it lives as long as a change
			return remote.ServeStdio(cmd.Context(), args[0], copied, remoteOperations())
		},
	}
	cmd.Flags().BoolVar(&copied, "copy", false, "this executable was copied for one connection: remove it")
	return cmd
}

// isHere reports whether a host's name stands for this one, which needs no ssh.
func isHere(host string) bool { return host == "." || host == "localhost" }

// connect reaches a host: by ssh, or without it this one.
func connect(ctx context.Context, host string, opt remote.Options) (*remote.Conn, error) {
	if isHere(host) {
		return remote.Local(host, remoteOperations()), nil
	}
	return remote.Dial(ctx, host, opt)
}

// hostFlags say which hosts, and how ssh gets there.
type hostFlags struct {
	names  []string
	config string
}

// sshConfigVariable is instead of --ssh-config.
const sshConfigVariable = "ESPALIER_SSH_CONFIG"

// addHosts adds --host and what goes with it.
func (h *hostFlags) addHosts(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&h.names, "host", nil, "other `HOSTS`, as ssh knows them, instead of this one (this one is .)")
	h.addConfig(cmd)
}

// given reports whether other hosts are asked for.
func (h *hostFlags) given(cmd *cobra.Command) (bool, error) {
	if !cmd.Flags().Changed("host") {
		return false, nil
	}
	if len(h.names) == 0 {
		return true, usageError(errors.New("--host: the name of a host goes here"))
	}
	for _, name := range h.names {
		if err := remote.CheckDestination(name); err != nil {
			return true, usageError(fmt.Errorf("--host: %w", err))
		}
	}
	return true, nil
}

func (h *hostFlags) addConfig(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.config, "ssh-config", "", "an ssh configuration `FILE` instead of ~/.ssh/config ("+sshConfigVariable+")")
}

// options of connections; several may be made at the same time.
func (h *hostFlags) options(root remote.Root, stderr io.Writer) remote.Options {
	opt := remote.Options{Config: h.config, Root: root, Stderr: &lockedWriter{w: stderr}}
	if opt.Config == "" {
		opt.Config = os.Getenv(sshConfigVariable)
	}
	if remote.HasTerminal() {
		opt.Terminal = &sync.Mutex{}
	}
	return opt
}

// hostWords is an error about a host without the host's name before it.
func hostWords(err error) string {
	var e *remote.Error
	if errors.As(err, &e) {
		return string(e.Reason) + ": " + e.Detail
	}
	return err.Error()
}
