package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"espalier/config"
	"espalier/deploy"
	"espalier/tunnel"
)

const rotateLong = `Replace the SAs of the tunnels of FILE by new ones with fresh keys, while traffic runs: the new ones are
there on all hosts, and proven by probes, before the old ones go. Only the TUNNELs that are named, or all.

FILE is taken as it was applied last, also if it has changed since: apply it for that.

With --due only what has reached its time or share of sequence numbers (rotate in FILE), or has lost its
SAs, for instance because a host was booted anew; and guards, units and holders of UDP ports that were
lost are put back. Hosts that do not answer are told, and do not keep the others from it. A timer that
apply installs runs it, for all files that
were applied from this host if there is no FILE; it says nothing where nothing is due.

Exit status: 0 if new SAs are in force or nothing is due, 1 if the old ones are still (with --due: on some
hosts, which are told) or, "unclear", the hosts still have to agree, 2 for a wrong command line, 3 if
offload: require is not met by the new ones, and the old ones are in force.`

func newRotateCommand() *cobra.Command {
	r := &tunnelRun{kind: tunnel.Rotate}
	var due bool
	cmd := &cobra.Command{
		Use:   "rotate FILE [TUNNEL…] | rotate --due [FILE]",
		Short: "Replace the keys of tunnels while traffic runs",
		Long:  rotateLong,
		Example: `  espalier rotate tunnels.yaml
  espalier rotate tunnels.yaml db
  espalier rotate --due`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !due {
				return errors.New("which file? (or --due for all that were applied from here)")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.begin(cmd); err != nil {
				return err
			}
			if len(args) == 0 {
				return r.rotateAll(cmd.Context())
			}
			path, err := wholePath(args[0])
			if err != nil {
				return err
			}
			c, err := r.rotate(cmd.Context(), path, args[1:], due)
			return r.conclude("rotate", c, err)
		},
	}
	r.addFlags(cmd, "output")
	r.addWithout(cmd)
	r.addGrace(cmd)
	cmd.Flags().BoolVar(&due, "due", false, "only what has reached its time or lost its SAs")
	return cmd
}

// rotateAll is what the timer runs: all files that were applied from here, each as it was.
func (r *tunnelRun) rotateAll(ctx context.Context) error {
	place, err := tunnelPlace()
	if err != nil {
		return err
	}
	rotations, err := place.Rotations()
	if err != nil {
		return err
	}
	var errs []error
	all := rotationsView{Schema: schemaOf("rotate-due"), Files: []rotationView{}}
	for _, rotation := range rotations {
		one := *r
		c, err := (*change)(nil), one.reachAs(rotation.Arguments)
		if err == nil {
			c, err = one.rotate(ctx, rotation.File, nil, true)
		}
		if r.as.isData() {
			view := rotationView{File: rotation.File}
			if c != nil && c.report != nil {
				err = errors.Join(err, c.lost)
				whole := one.view("rotate", c, err)
				view.Change = &whole
			}
			if view.OK = err == nil; err != nil {
				view.Error = err.Error()
			}
			all.Files = append(all.Files, view)
		} else {
			err = one.conclude("rotate", c, err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", rotation.File, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	if all.OK = len(errs) == 0; r.as.isData() {
		errs = append(errs, writeData(r.stdout, r.as, all))
	}
	return errors.Join(errs...)
}

// rotationsView is the JSON of `espalier rotate --due` without a file.
type rotationsView struct {
	Schema string         `json:"schema"`
	OK     bool           `json:"ok"`
	Files  []rotationView `json:"files"` // that were applied from this host
}

type rotationView struct {
	File   string      `json:"file"`
	OK     bool        `json:"ok"`
	Error  string      `json:"error,omitempty"`
	Change *changeView `json:"change,omitempty"` // what the rotation came to, or that nothing is due
}

// rotate is `espalier rotate` of one file.
func (r *tunnelRun) rotate(ctx context.Context, path string, names []string, due bool) (*change, error) {
	text, err := applied(path)
	if err != nil {
		return nil, err
	}
	r.partly = due // a host that is dead must not keep the others from having new keys
	c, err := r.open(ctx, path, text)
	if err != nil {
		return nil, err
	}
	defer c.close()
	for _, name := range names {
		if !slices.ContainsFunc(c.file.Tunnels, func(t config.Tunnel) bool { return t.Name == name }) {
			return nil, usageError(fmt.Errorf("rotate: there is no tunnel %s in %s", shorten(name), path))
		}
	}
	err = c.make(tunnel.Options{Kind: tunnel.Rotate, Yield: due, Only: func(p *tunnel.Pair) bool {
		return (len(names) == 0 || slices.Contains(names, p.Tunnel)) && (!due || deploy.Due(c.hosts, p) != "")
	}})
	if err != nil {
		return nil, err
	}
	switch {
	case c.plan.Changes():
	case due && c.yielded():
		r.say(path, "its tunnels are of "+c.plan.Pairs[0].Yielded+" now, and are left to that")
		return c, r.forget(c)
	case due:
		c.quiet = true
	case len(c.absent) > 0:
		return nil, fmt.Errorf("no tunnel of %s is set up between the hosts that are left", path)
	default:
		return nil, fmt.Errorf("no tunnel of %s is set up: espalier apply %[1]s", path)
	}
	if err := r.carryOut(ctx, c); err != nil {
		return c, err
	}
	return c, keepTimer()
}

// yielded reports whether all pairs are of other files by now.
func (c *change) yielded() bool {
	return len(c.plan.Pairs) > 0 && !slices.ContainsFunc(c.plan.Pairs, func(p tunnel.Pair) bool { return p.Yielded == "" })
}

// keepTimer has the timer be there again, if it was lost, also where this host is none of the file's.
func keepTimer() error {
	place, err := tunnelPlace()
	if err == nil {
		err = place.KeepRotations()
	}
	if err != nil {
		return &exitError{exitFailed, fmt.Errorf("the tunnels are in force, but the next rotation may not come by itself: %w", err)}
	}
	return nil
}

// reachAs takes the arguments that [tunnelRun.reach] has given.
func (r *tunnelRun) reachAs(args []string) error {
	f := pflag.NewFlagSet("rotate", pflag.ContinueOnError)
	f.StringVar(&r.hosts.config, "ssh-config", r.hosts.config, "")
	f.StringVar(&r.sad, "sad", r.sad, "")
	return f.Parse(args)
}
