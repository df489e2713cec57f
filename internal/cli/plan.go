package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/spf13/cobra"

	"espalier/config"
	"espalier/deploy"
	"espalier/deploy/host"
	"espalier/deploy/steps"
	"espalier/remote"
	"espalier/tunnel"
)

// planRun is one `espalier plan`.
type planRun struct {
	file     string
	script   string
	exitCode bool
	adopt    bool
	without  []string // hosts that take no part
	absent   deploy.Absent
	sad      string
	ssh      hostFlags
	format   format

	stdin          io.Reader
	stdout, stderr io.Writer
}

func newPlanCommand() *cobra.Command {
	var r planRun
	var output string
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Show what a file of tunnels would change on its hosts",
		Long: `Ask the hosts of FILE what they are and have, and show what espalier apply would change: for each host
the difference of its SAs and policies as ip xfrm commands, in their order, with keys hidden; what was chosen
where the file leaves it open, and why; and what traffic will see of it. Nothing is changed.

This host is known by its addresses; the others are reached by the ssh program with your own configuration, all
at once. It needs root, here if this host is one of them, and there, by login or by sudo -n.

--script DIR writes for each host a file of commands with keys in them, which only you can read, and changes
nothing else: for hosts without espalier. What is set up so is not espalier's: it is not rotated, not guarded, and
not taken back if you lose the connection.

Exit status: 0, or with --exit-code 3 if there is anything to change; 1 if the plan cannot be made; 2 for a wrong
command line.`,
		Example: `  espalier plan tunnels.yaml
  espalier plan tunnels.yaml --exit-code -o json
  espalier plan tunnels.yaml --script ./scripts`,
		Args: usageArgs(oneFile),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := choose("-o", output, map[string]func(){"text": func() {}, "json": func() { r.format = formatJSON }, "yaml": func() { r.format = formatYAML }}); err != nil {
				return usageError(err)
			}
			r.file = args[0]
			r.stdin, r.stdout, r.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return r.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.script, "script", "", "write commands with keys for each host into a new or private `DIR`")
	f.BoolVar(&r.exitCode, "exit-code", false, "exit with 3 if there is anything to change")
	f.BoolVar(&r.adopt, "adopt", false, "take over policies and tunnels that are somebody else's")
	f.StringArrayVar(&r.without, "without", nil, "leave out a `HOST` that cannot be reached, as apply does (repeatable)")
	f.StringVar(&r.sad, "sad", "", "SAD of this host: kernel, unix:PATH or auto")
	f.StringVarP(&output, "output", "o", "text", "text, json or yaml")
	r.ssh.addConfig(cmd)
	return cmd
}

func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("which file?")
	}
	return atMostOne(cmd, args)
}

func (r *planRun) run(ctx context.Context) error {
	if r.script != "" {
		if err := keepSecrets(); err != nil {
			return err
		}
	}
	file, plan, err := r.make(ctx)
	if err != nil {
		return r.refused(err)
	}
	var written []string
	if r.script != "" && plan.Changes() {
		if written, err = writeScripts(r.script, plan); err != nil {
			return err
		}
	}
	if r.format.isData() {
		view := viewPlan(file, plan)
		view.Scripts, view.Without = written, r.absent.Names()
		err = writeData(r.stdout, r.format, view)
	} else {
		for _, note := range file.Notes {
			fmt.Fprintln(r.stderr, "note:", note)
		}
		err = errors.Join(writePlan(r.stdout, plan), tellScripts(r.stdout, written))
		for _, name := range r.absent.Names() {
			fmt.Fprintf(r.stdout, "%s is left out: what it has stays, and what the others have for it.\n", remote.Printable(name))
		}
		if err == nil && plan.Changes() && len(written) == 0 {
			_, err = fmt.Fprintf(r.stdout, "espalier apply %s carries it out.\n", r.file)
		}
	}
	if err == nil && r.exitCode && plan.Changes() {
		err = &exitError{exitUnmet, nil}
	}
	return err
}

// make reads the file, asks the hosts, and plans.
func (r *planRun) make(ctx context.Context) (*config.File, *tunnel.Plan, error) {
	path, err := wholePath(r.file)
	if err != nil {
		return nil, nil, err
	}
	file, err := readConfig(&r.file, r.stdin)
	if err != nil {
		return nil, nil, err
	}
	origin, err := deploy.Origin(path)
	if err != nil {
		return nil, nil, err
	}
	former, err := formerFiles(path)
	if err != nil {
		return nil, nil, err
	}
	if r.absent, err = deploy.Without(file, filesOf(former), r.without); err != nil {
		return nil, nil, usageError(fmt.Errorf("--without: %w", err))
	}
	hosts, here, err := deploy.Gather(ctx, file, deploy.GatherOptions{
		SAD: cmp.Or(r.sad, os.Getenv("ESPALIER_SAD")), Local: remoteOperations(), Remote: r.ssh.options(remote.RootRequired, r.stderr), Say: progressLines(r.stderr),
		Absent: r.absent, Former: filesOf(former),
	})
	if err != nil {
		return nil, nil, orWithout(err, "plan", r.file)
	}
	defer deploy.Close(hosts)
	plan, err := tunnel.Make(file, deploy.Hosts(hosts), tunnel.Options{Origin: origin, Here: here, Adopt: r.adopt, Absent: r.absent.Has})
	if err == nil && len(r.absent) > 0 && len(plan.Pairs) == 0 {
		err = noTwoLeft(path)
	}
	if err == nil {
		deploy.Detours(plan, hosts)
	}
	return file, plan, err
}

// refused tells why there is no plan.
func (r *planRun) refused(err error) error {
	if !r.format.isData() {
		if _, ok := err.(*fs.PathError); ok { // of the file itself
			err = plainPathError(err)
		}
		return err
	}
	view := viewPlan(&config.File{}, &tunnel.Plan{})
	view.OK, view.Problems = false, viewConfig(r.file, nil, err).Problems
	return errors.Join(writeData(r.stdout, r.format, view), &exitError{exitCode(err), nil})
}

// progressLines writes a line for each host.
func progressLines(w io.Writer) func(host, line string) {
	var mu sync.Mutex
	return func(host, line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "%s: %s\n", remote.Printable(host), remote.Printable(line))
	}
}

// answerFacts is what this host tells of itself.
func answerFacts(ctx context.Context, q steps.FactsQuestion, _ remote.Progress) (*tunnel.Facts, error) {
	return host.GatherFacts(ctx, q.SAD)
}
