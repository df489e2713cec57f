package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"espalier/tunnel"
)

const applyLong = `Set up the tunnels of FILE on all their hosts, or change what is there into what FILE says.

Hosts are reached by ssh, as FILE says, as root or with sudo -n; the host that the command is given on
knows itself by its addresses. Nothing has to be installed there. What differs is changed in steps, each
on all hosts before the next begins, so that running traffic is not dropped: inbound SAs, outbound SAs,
policies that take ESP beside cleartext, policies that send ESP; probes that the peers must have seen;
then nothing is taken in clear any more, and a guard sees to that, also after a reboot.

It cannot lock you out: each host undoes all of it by itself unless it is confirmed within
--confirm-timeout, and that is only done once the probes have come, and new connections by ssh succeed.
On Ctrl-C everything is undone, on this host last, and it says what each host came to; one that does not
answer within 10 s undoes it by itself.

SAs and policies that are not of this FILE are not touched; if some are in the way, nothing is changed
(--adopt takes over what is the same). Run it again: what is as it should be stays.

--without HOST changes nothing of tunnels with a host that cannot be reached, and all others.

Exit status: 0 if FILE is in force (but for HOSTs left out); 1 if it is not, and the first words of the error say what is: "rolled
back" and everything is as it was before, "unclear" and the hosts still have to agree, "in force" and only
the timer is missing; 2 for a wrong command line; 3 if offload: require is not met, and everything is as it
was before. Notes on stderr are no errors.`

func newApplyCommand() *cobra.Command {
	r := &tunnelRun{kind: tunnel.Apply}
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Set up the tunnels of a file on all their hosts, so that it cannot lock you out",
		Long:  applyLong,
		Example: `  espalier config example > tunnels.yaml
  espalier plan tunnels.yaml                   # what would change, and why
  espalier apply tunnels.yaml
  espalier apply tunnels.yaml --confirm-timeout 2m -o json`,
		Args: usageArgs(oneFile),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.begin(cmd); err != nil {
				return err
			}
			path, err := wholePath(args[0])
			if err != nil {
				return err
			}
			c, err := r.apply(cmd.Context(), path)
			return r.conclude("apply", c, err)
		},
	}
	r.addFlags(cmd, "output")
	r.addWithout(cmd)
	r.addGrace(cmd)
	r.addYes(cmd)
	cmd.Flags().BoolVar(&r.adopt, "adopt", false, "take over policies and SAs that are as FILE says, but not espalier's or of another file")
	return cmd
}

// apply is `espalier apply`.
func (r *tunnelRun) apply(ctx context.Context, path string) (*change, error) {
	text, err := readTunnels(path)
	if err != nil {
		return nil, err
	}
	c, err := r.open(ctx, path, text)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.make(tunnel.Options{Kind: tunnel.Apply, Adopt: r.adopt}); err != nil {
		return nil, err
	}
	if err := r.alone(ctx, c); err != nil {
		return nil, err
	}
	for _, note := range c.ssh {
		fmt.Fprintln(r.stderr, "note:", note)
	}
	if len(c.absent) > 0 && len(c.plan.Pairs) == 0 {
		return nil, noTwoLeft(path)
	}
	if c.plan.Changes() {
		if err := r.ask(ctx, c); err != nil {
			return nil, err
		}
	}
	err = r.carryOut(ctx, c)
	if err == nil {
		err = r.remember(c)
	}
	return c, err
}

// ask shows what is going to be done, and asks a person if one is there.
func (r *tunnelRun) ask(ctx context.Context, c *change) error {
	if r.yes || r.as.isData() || !isTerminal(r.stdin) {
		return nil
	}
	if err := writePlan(r.stdout, c.plan); err != nil {
		return err
	}
	if yes, err := goOn(ctx, r.stdin, r.stdout); err != nil || yes {
		return err
	}
	return &exitError{exitFailed, errors.New("nothing was changed")}
}
