package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"espalier/config"
	"espalier/deploy"
	"espalier/deploy/steps"
	"espalier/remote"
	"espalier/tunnel"
)

// tunnelRun is one invocation of a command that changes tunnels on hosts.
type tunnelRun struct {
	kind    tunnel.Kind
	timeout time.Duration
	grace   time.Duration
	yes     bool
	adopt   bool
	sad     string
	without []string // hosts that take no part
	leaves  bool     // there is a flag for those
	partly  bool     // those that do not answer take none either
	hosts   hostFlags
	output  string

	as             format
	stdin          io.Reader
	stdout, stderr io.Writer
	steps          io.Writer // gets what hosts have done
	width          int       // of steps
}

// changeLimits are the least and the most time to confirm a change in.
var changeLimits = [2]time.Duration{5 * time.Second, time.Hour}

const maxGrace = 10 * time.Minute

// addFlags adds what all these commands take; formatFlag is the long name of -o.
func (r *tunnelRun) addFlags(cmd *cobra.Command, formatFlag string) {
	f := cmd.Flags()
	f.DurationVar(&r.timeout, "confirm-timeout", time.Minute, "hosts undo the change unless it is confirmed within this `TIME`")
	f.StringVar(&r.sad, "sad", "", "kernel, unix:PATH or auto: which SAD of this host (default auto, or ESPALIER_SAD)")
	f.StringVarP(&r.output, formatFlag, "o", "text", "text, json or yaml")
	r.hosts.addConfig(cmd)
	cmd.RegisterFlagCompletionFunc("sad", fixedWords("kernel", "auto", "unix:"))
	cmd.RegisterFlagCompletionFunc(formatFlag, fixedWords("text", "json", "yaml"))
}

func (r *tunnelRun) addGrace(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&r.grace, "grace", 5*time.Second, "keep old SAs for this `TIME` once the new ones are confirmed")
}

func (r *tunnelRun) addYes(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&r.yes, "yes", "y", false, "do not ask, also on a terminal")
}

func (r *tunnelRun) addWithout(cmd *cobra.Command) {
	r.leaves = true
	cmd.Flags().StringArrayVar(&r.without, "without", nil, "leave out a `HOST` that cannot be reached: its ssh destination or address (repeatable)")
}

// begin looks at the flags.
func (r *tunnelRun) begin(cmd *cobra.Command) error {
	err := choose("-o", r.output, map[string]func(){"text": func() {}, "json": func() { r.as = formatJSON }, "yaml": func() { r.as = formatYAML }})
	if r.timeout < changeLimits[0] || r.timeout > changeLimits[1] {
		err = errors.Join(err, fmt.Errorf("--confirm-timeout %s: a time from %s to %s goes here", r.timeout, changeLimits[0], changeLimits[1]))
	}
	if r.grace < 0 || r.grace > maxGrace {
		err = errors.Join(err, fmt.Errorf("--grace %s: a time from 0 to %s goes here", r.grace, maxGrace))
	}
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", cmd.Name(), err))
	}
	if r.sad == "" {
		r.sad = os.Getenv("ESPALIER_SAD")
	}
	r.stdin, r.stdout, r.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	to := r.stdout
	if r.as.isData() {
		to = r.stderr
	}
	r.steps, r.width = &lockedWriter{w: to}, newScreen(to).width
	return keepSecrets()
}

// say writes what a host has done.
func (r *tunnelRun) say(host, done string) {
	var b bytes.Buffer
	writeStep(&b, r.width, host+": "+done)
	r.steps.Write(b.Bytes())
}

// change is a change of the tunnels of a file.
type change struct {
	file   *config.File
	path   string // of the file, absolute
	origin string // by which hosts know it
	text   []byte // of the file
	hosts  []deploy.Host
	here   *tunnel.Facts // of this host
	absent deploy.Absent // hosts that take no part
	former []formerFile  // the file as it was applied before
	lost   error         // why some of those do not, if nobody has said so
	plan   *tunnel.Plan
	report *deploy.Report
	quiet  bool     // nothing is to be said to people
	ssh    []string // what becomes of ssh when a host is booted
	// notAlone is why the timer cannot log in to hosts; nil: it can, or nothing is known to the contrary.
	notAlone error
}

// openNow reads a file, connects to its hosts, and asks them for what they have. The caller closes the change.
func (r *tunnelRun) openNow(ctx context.Context, path string, text []byte) (*change, error) {
	c := &change{path: path, text: text}
	var err error
	if c.origin, err = deploy.Origin(path); err != nil {
		return nil, err
	}
	if c.file, err = config.Parse(path, text); err != nil {
		return nil, err
	}
	if r.kind == tunnel.Down {
		reachAsNow(c.file, path)
	}
	if r.kind != tunnel.Rotate {
		if c.former, err = formerFiles(path); err != nil {
			return nil, err
		}
	}
	if c.absent, err = deploy.Without(c.file, filesOf(c.former), r.without); err != nil {
		return nil, usageError(fmt.Errorf("--without: %w", err))
	}
	opt := deploy.GatherOptions{SAD: r.sad, Local: remoteOperations(), Remote: r.hosts.options(remote.RootRequired, r.stderr), Absent: c.absent,
		Former: filesOf(c.former)}
	if r.partly {
		opt.Lost = func(_ string, err error) { c.lost = errors.Join(c.lost, err) }
	}
	c.hosts, c.here, err = deploy.Gather(ctx, c.file, opt)
	if err != nil && r.leaves {
		err = orWithout(err, string(r.kind), path)
	}
	if err != nil {
		return nil, err
	}
	if err = busy(c.hosts); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// orWithout says how the others go on without a host that cannot be reached.
func orWithout(err error, command, path string) error {
	if gone, ok := errors.AsType[*remote.Error](err); ok && gone.Reason == remote.Unreachable {
		return fmt.Errorf("%w\nif it stays so, the others go on by: espalier %s %s --without %s", err, command, path, gone.Host)
	}
	return err
}

func noTwoLeft(path string) error { return fmt.Errorf("%s has no two hosts that are left", path) }

// make plans the change.
func (c *change) make(opt tunnel.Options) (err error) {
	opt.Origin, opt.Here, opt.Absent = c.origin, c.here, c.absent.Has
	c.plan, err = tunnel.Make(c.file, deploy.Hosts(c.hosts), opt)
	if problems, ok := errors.AsType[config.Problems](err); ok && c.required(problems) {
		return &exitError{exitUnmet, err}
	}
	if err == nil {
		c.ssh = deploy.Detours(c.plan, c.hosts)
	}
	return err
}

// required reports whether all that is in the way is that offload is required, and cannot be had.
func (c *change) required(problems config.Problems) bool {
	return !slices.ContainsFunc(problems, func(p config.Problem) bool {
		return !slices.ContainsFunc(c.file.Tunnels, func(t config.Tunnel) bool {
			at := config.Position{Line: p.Line, Column: p.Column}
			// Where nobody does ESP with it, the engine is what is wrong.
			return t.Offload == config.RequireOffload && (at == t.Place("offload") || at == t.Place("engine") && strings.Contains(p.What, "offload: require"))
		})
	})
}

// carryOut does what is planned.
func (r *tunnelRun) carryOut(ctx context.Context, c *change) (err error) {
	name, _ := os.Hostname()
	c.report, err = deploy.Run(ctx, c.plan, c.hosts, deploy.Options{
		Kind: steps.Kind(r.kind), Coordinator: name, Origin: c.origin, Timeout: r.timeout, Grace: r.grace, Say: r.say,
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return interruptedChange(c.report, err)
	case c.report.Result == deploy.NotMet:
		return &exitError{exitUnmet, err}
	}
	return &exitError{exitFailed, err}
}

// interruptedChange tells what each host came to when the change was interrupted.
func interruptedChange(report *deploy.Report, err error) error {
	if !errors.Is(err, context.Canceled) {
		return err // something else was wrong, and it tells of it
	}
	var b strings.Builder
	b.WriteString(string(report.Result))
	for _, h := range report.Hosts {
		what := cmp.Or(string(h.Stage), "nothing was begun")
		switch {
		case h.Silent:
			what = h.Problem
		case h.Problem != "":
			what += ", but: " + h.Problem
		}
		// Errors of hosts mostly begin with its name.
		fmt.Fprintf(&b, "\n  %s: %s", remote.Printable(h.Name), remote.Printable(strings.TrimPrefix(what, h.Name+": ")))
	}
	report.Why = b.String()
	return errors.New(report.Why)
}

// close ends the connections that are left.
func (c *change) close() { deploy.Close(c.hosts) }
