package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"espalier/probe"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

const xfrmLong = `The grammar of ip xfrm, for the kernel and for userspace devices alike. Words, abbreviations,
defaults and exit codes are those of ip-xfrm(8). What is added: a key may be given as @FILE or -
(standard input); an SA that was to be offloaded is read back and the truth told; what the kernel
is known to refuse, or to take and ignore, is refused with the cure; no key is taken for sending
that was installed on this host before; monitor also tells when a link goes down or away and which
offloaded SAs went with it, which the kernel deletes without an event; and drops shows what was
dropped, and why.

Usage:
  espalier xfrm [OPTIONS] state  {add|update|allocspi|delete|get|list|deleteall|flush|count} …
  espalier xfrm [OPTIONS] policy {add|update|delete|get|list|deleteall|flush|count|
                                  set|setdefault|getdefault} …
  espalier xfrm [OPTIONS] monitor [nokeys] [all-nsid] [file F]
                                  [all|acquire|expire|SA|aevent|policy|report]…
  espalier xfrm [OPTIONS] -batch FILE

Options:
      --sad kernel|unix:PATH|auto  where to: the kernel, a device's socket, or (auto, also by
                                   ESPALIER_SAD) the named device's socket, else the only one
                                   in this network namespace, else the kernel
  -b, -batch FILE                  commands from FILE (- is stdin), as ip -batch and shell
                                   scripts of ip xfrm have them; all are checked before the
                                   first is sent; stops at the first failure
      -force                       go on after a failure (with -batch)
  -s, -stats                       also print lifetimes and counters
  -o                               one object per line
  -o json, -o yaml, -o wide        JSON or YAML, without keys; as -s
  -t, -ts                          with monitor: when each event came
  -4, -6, -f inet|inet6            only this address family
  -n, -netns NAME                  in this network namespace
  -c, -d, -h…, -r and other options of ip that mean nothing to ip xfrm mean nothing here
      --show-keys                  print keys
      --dry-run                    check and show what would be sent; send nothing
      --require-offload            take an SA out again that was not offloaded, and exit 3
      --atomic                     with -batch: what was done is undone when a line fails
      --generate-key               make a new AES-256 key where @FILE is not there yet; alone, or
                                   in place of a key: print one, take one
      --allow-key-reuse            send with a key that was installed on this host before
      --ip-compat                  ask the kernel also for what it is known to refuse or ignore,
                                   and for SAs that repeat a key: warn, as little as ip does
  -h, --help

Exit codes: 0 done, 1 the words do not go together, 2 refused by the kernel or the device, or
beforehand, 3 --require-offload is unmet, 130 interrupted, 255 not in the grammar.

The record of keys that were ever installed is in /var/lib/espalier, or where ESPALIER_STATE_DIR
says. It holds no keys.

Examples:
  espalier xfrm --generate-key state add src 192.168.1.64 dst 192.168.1.65 proto esp \
      spi 0x28f39549 reqid 1 mode transport aead 'rfc4106(gcm(aes))' @out.key 128 offload dev p4p1 dir out
  espalier xfrm policy add src 192.168.1.64 dst 192.168.1.65 dir out \
      tmpl src 192.168.1.64 dst 192.168.1.65 proto esp reqid 1 mode transport
  espalier xfrm -s state list
  espalier xfrm drops
  espalier xfrm -o json monitor expire acquire
  espalier xfrm -o json state list reqid 1
  espalier xfrm --dry-run -batch server.sh
`

func newXfrmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:                "xfrm",
		Short:              "Program SAs and policies with the words of ip xfrm",
		Long:               xfrmLong,
		DisableFlagParsing: true, // the options are those of ip
		ValidArgsFunction:  completeXfrm,
		RunE: func(cmd *cobra.Command, args []string) error {
			opt, words, err := parseXfrmOptions(args)
			if err != nil {
				return &exitError{exitXfrmSyntax, fmt.Errorf("xfrm: %w (see espalier xfrm --help)", err)}
			}
			if opt.help {
				_, err := io.WriteString(cmd.OutOrStdout(), xfrmLong)
				return err
			}
			run := &xfrmRun{
				xfrmOptions: opt,
				stdin:       cmd.InOrStdin(),
				stdout:      cmd.OutOrStdout(),
				stderr:      cmd.ErrOrStderr(),
				open:        sadChoice.open,
			}
			if run.asksForUsage(words) {
				io.WriteString(cmd.ErrOrStderr(), xfrmLong)
				return &exitError{code: exitXfrmSyntax}
			}
			return inNetns(opt.netns, func() error { return run.run(cmd.Context(), words) })
		},
	}
	cmd.SetHelpFunc(func(cmd *cobra.Command, _ []string) { io.WriteString(cmd.OutOrStdout(), xfrmLong) })
	return cmd
}

// xfrmRun is one invocation of `espalier xfrm`.
type xfrmRun struct {
	xfrmOptions
	stdin          io.Reader
	stdout, stderr io.Writer
	open           func(sadChoice) (engine, error)

	asking      sync.Mutex // for parsers that ask for names and keys
	names       interfaceNames
	batchIsOpen bool // others can read the batch file
	stdinIsRead bool // a key was there
	sad         sadChoice
	engine      engine
	nics        map[string]probe.NIC // those asked so far
	all         []job
	keys        keyGuard
}

// asksForUsage reports whether words say "help" where ip takes that for a command: it answers
// with usage and fails. Like its other words it may be shortened.
func (o *xfrmOptions) asksForUsage(words []string) bool {
	short := func(word, of string) bool { return word != "" && strings.HasPrefix(of, word) }
	if len(words) > 1 && (short(words[0], "state") || short(words[0], "policy") || short(words[0], "monitor")) {
		words = words[1:]
	}
	return o.batch == "" && len(words) > 0 && short(words[0], "help")
}

// job is one command to carry out.
type job struct {
	*xfrm.Command
	line int // of a batch, or 0
}

func (r *xfrmRun) run(ctx context.Context, words []string) error {
	if r.generateKey && r.batch == "" && len(words) == 0 {
		_, err := r.stdout.Write(newKey())
		return err
	}
	if len(words) == 1 && words[0] == dropsWord {
		return r.showDrops(ctx)
	}
	jobs, err := r.jobs(words)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		r.warn(j)
	}
	if r.dryRun {
		return r.showJobs(jobs)
	}
	if len(jobs) == 0 {
		return nil
	}
	readsFile := func(j job) bool { return j.Monitor != nil && j.Monitor.File != "" }
	if slices.IndexFunc(jobs, func(j job) bool { return !readsFile(j) }) >= 0 {
		if err := r.connect(jobs); err != nil {
			return r.fail(jobs[0], err)
		}
		defer r.engine.Close()
	}
	r.all = jobs
	if r.atomic {
		err = r.runAtomic(ctx, jobs)
	} else {
		err = r.runJobs(ctx, jobs)
	}
	return errors.Join(err, r.keys.Close())
}

// jobs parses everything there is to do, so that nothing is sent when any of it is wrong.
func (r *xfrmRun) jobs(words []string) ([]job, error) {
	if r.batch != "" {
		return r.batchJobs(words)
	}
	cmd, err := xfrm.Parse(words, r.env())
	if err != nil {
		return nil, r.fail(job{}, parseFailure(err))
	}
	return []job{{Command: cmd}}, nil
}

// parseFailure gives an error of package xfrm the exit code ip has for it.
func parseFailure(err error) error {
	var syntax *xfrm.SyntaxError
	var script *xfrm.ScriptError
	if errors.As(err, &syntax) || errors.As(err, &script) {
		return &exitError{exitXfrmSyntax, err}
	}
	return &exitError{exitXfrmSemantic, err}
}

func (r *xfrmRun) connect(jobs []job) error {
	dir, err := client.SocketDir()
	if err != nil {
		return err
	}
	var devices []string
	for _, j := range jobs {
		if j.Device != "" && !slices.Contains(devices, j.Device) {
			devices = append(devices, j.Device)
		}
	}
	if r.sad, err = chooseSAD(r.sadFlag, os.Getenv("ESPALIER_SAD"), dir, devices); err != nil {
		return err
	}
	fmt.Fprintf(r.stderr, "sad: %s\n", r.sad)
	if r.engine, err = r.open(r.sad); err != nil {
		return &exitError{exitXfrmEngine, err}
	}
	return nil
}

// runJobs goes through the jobs in their order and stops at the first failure, as ip does, unless
// forced. Then those that do not wait for each other go together.
func (r *xfrmRun) runJobs(ctx context.Context, jobs []job) error {
	var first error
	for len(jobs) > 0 {
		errs := r.runSome(ctx, jobs)
		for i, err := range errs {
			if err == nil {
				continue
			}
			err = r.fail(jobs[i], engineFailure(err))
			if !r.force || ctx.Err() != nil {
				return err
			}
			fmt.Fprintln(r.stderr, err)
			if first == nil {
				first = &exitError{code: exitCode(err)} // it has been printed
			}
		}
		jobs = jobs[len(errs):]
	}
	return first
}

// fail puts the place of the job in front of its error, and reports it as data if that was asked
// for.
func (r *xfrmRun) fail(j job, err error) error {
	code := exitCode(err)
	if r.format.isData() {
		object := "xfrm"
		if j.Command != nil {
			object = "xfrm-" + j.Object.String()
		}
		if err := writeData(r.stdout, r.format, failure{Schema: schemaOf(object), Line: j.line, Error: err.Error(), Exit: code}); err != nil {
			return err
		}
	}
	place := r.place(j)
	if place == "" {
		place = "xfrm: "
	}
	return &exitError{code, fmt.Errorf("%s%w", place, err)}
}

// place is "FILE:LINE: " for a job of a batch, else nothing.
func (r *xfrmRun) place(j job) string {
	if j.line == 0 {
		return ""
	}
	name := r.batch
	if name == "-" {
		name = "stdin"
	}
	return fmt.Sprintf("%s:%d: ", name, j.line)
}
