package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"espalier/accept"
	"espalier/remote"
)

const acceptLong = `Try the NICs of two hosts end to end, and write down what came of it in a report to send to others.

It runs the doctor on both hosts, measures TCP between them (by iperf3 if both have it), adds SAs and policies in the shape of
the vendor's commands with fresh keys, sends traffic and asks both hosts who encrypts it, replaces
the keys under traffic, takes the links down and up, and looks after each step. Everything is
taken back at the end, whatever happens; also if the connection breaks or this program is killed.

It says what it is going to do and asks, unless there is --yes. A link by which a host is reached
stays up, unless there is --allow-link-down. What is on the hosts already is not touched: with SAs
or policies between the two addresses it does not begin. Both hosts need an IPv4 address in one
network, or --address-a and --address-b. Hosts are reached by ssh, as root or with sudo -n; . is
this one. The record of used keys is what stays there (espalier xfrm keeps it).

The report is Markdown with the same as JSON at its end. Keys, names and addresses are not in it.

Exit status: 0 if every step passed, 1 if one failed, 2 for a wrong command line, 3 if --require is
unmet.`

// acceptRun is one invocation of `espalier accept`.
type acceptRun struct {
	accept.Options
	hosts     hostFlags
	devices   [2]string
	addresses [2]string
	report    string
	yes       bool
	require   string
	as        format
}

func newAcceptCommand() *cobra.Command {
	r := &acceptRun{}
	var output string
	cmd := &cobra.Command{
		Use:   "accept HOST-A HOST-B",
		Short: "Try the NICs of two hosts end to end, and write a report",
		Long:  acceptLong,
		Example: `  espalier accept root@db1 root@db2
  espalier accept . db2 --dev-a p4p1 --dev-b enp4s0 --keep-links
  espalier accept db1 db2 --yes --require hardware --report db.md`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("which two hosts? (. is this one)")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := errors.Join(
				choose("-o", output, map[string]func(){"text": func() {}, "json": func() { r.as = formatJSON }, "yaml": func() { r.as = formatYAML }}),
				choose("--require", strings.ToLower(r.require), map[string]func(){"": func() {}, "hardware": func() {}, "emulated": func() {}}),
			)
			if r.Duration < time.Second || r.Duration > time.Hour {
				err = errors.Join(err, fmt.Errorf("--duration %s: a time from 1s to 1h goes here", r.Duration))
			}
			for _, host := range args {
				err = errors.Join(err, remote.CheckDestination(host))
			}
			if args[0] == args[1] {
				err = errors.Join(err, errors.New("two hosts are needed"))
			}
			hosts := [2]*accept.Host{{Device: r.devices[0]}, {Device: r.devices[1]}}
			for i, text := range r.addresses {
				if text == "" {
					continue
				}
				address, bad := netip.ParseAddr(text)
				if bad != nil || !address.Is4() {
					err = errors.Join(err, fmt.Errorf("--address-%c %s: an IPv4 address goes here", 'a'+i, text))
				}
				hosts[i].Address = address
			}
			if err != nil {
				return usageError(fmt.Errorf("accept: %w", err))
			}
			r.A, r.B = hosts[0], hosts[1]
			return r.run(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.devices[0], "dev-a", "", "`DEVICE` of HOST-A (default: the one that joins it to HOST-B)")
	f.StringVar(&r.devices[1], "dev-b", "", "`DEVICE` of HOST-B")
	f.StringVar(&r.addresses[0], "address-a", "", "`ADDRESS` of HOST-A (default: the device's)")
	f.StringVar(&r.addresses[1], "address-b", "", "`ADDRESS` of HOST-B")
	f.DurationVar(&r.Duration, "duration", 5*time.Second, "how long each transfer takes")
	f.Uint16Var(&r.Port, "port", 0, "the TCP `PORT` of transfers, for firewalls (default: any)")
	f.BoolVar(&r.OwnTraffic, "own-traffic", false, "do not use iperf3 even if both hosts have it")
	f.BoolVar(&r.KeepLinks, "keep-links", false, "take no link down")
	f.BoolVar(&r.AllowLinkDown, "allow-link-down", false, "take a link down even if the host is reached by it")
	f.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	f.StringVar(&r.report, "report", "espalier-accept.md", "write the report to `FILE`; - is nowhere")
	f.StringVar(&r.require, "require", "", "exit with 3 unless every SA was of this `VERDICT`: hardware, emulated")
	f.StringVarP(&output, "output", "o", "text", "text, json or yaml")
	r.hosts.addConfig(cmd)
	return cmd
}

func (r *acceptRun) run(cmd *cobra.Command, args []string) error {
	ctx, stdout, stderr := cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	steps := &lockedWriter{w: stdout}
	if r.as.isData() {
		steps.w = stderr
	}
	width := newScreen(steps.w).width
	r.Step = func(format string, args ...any) { writeStep(steps, width, fmt.Sprintf(format, args...)) }
	r.Confirm = func(what string) error { return r.confirm(ctx, cmd.InOrStdin(), steps, what) }
	opt := r.hosts.options(remote.RootRequired, stderr)
	var err error
	for i, h := range []*accept.Host{r.A, r.B} {
		reach := remote.Dial
		if isHere(args[i]) {
			reach = remote.Child // this process may be killed, and what it holds must go all the same
		}
		if h.Conn, err = reach(ctx, args[i], opt); err != nil {
			return err
		}
		defer h.Conn.Close() // what the run held was taken back before
	}
	report, err := accept.Run(ctx, r.Options)
	if err != nil {
		return err
	}
	if r.report != "-" {
		if err := writeReportFile(r.report, report); err != nil {
			return err
		}
	}
	if r.as.isData() {
		err = writeData(stdout, r.as, report)
	} else {
		err = r.conclude(stdout, report)
	}
	switch {
	case err != nil:
		return err
	case !report.OK:
		return &exitError{code: exitFailed}
	case r.require != "" && report.Verdict != strings.ToUpper(r.require):
		return &exitError{exitUnmet, fmt.Errorf("required: %s; found: %s", strings.ToUpper(r.require), report.Verdict)}
	}
	return nil
}

// writeStep writes a step or, with two spaces before it, something that was found.
func writeStep(w io.Writer, width int, text string) {
	lead := "[#] "
	if strings.HasPrefix(text, " ") {
		lead = "    "
	}
	for i, line := range wrap(remote.Printable(text), width-len(lead)-2) {
		if i > 0 {
			lead = "      "
		}
		fmt.Fprintf(w, "%s%s\n", lead, line)
	}
}

func (r *acceptRun) conclude(w io.Writer, report *accept.Report) error {
	result := "every step passed"
	if !report.OK {
		result = "FAILED"
	}
	text := fmt.Sprintf("\n%s; verdict: %s\n", result, report.Verdict)
	if r.report != "-" {
		text += "report: " + r.report + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// confirm asks a person, once.
func (r *acceptRun) confirm(ctx context.Context, in io.Reader, out io.Writer, what string) error {
	fmt.Fprintf(out, "\n%s\n", what)
	if r.yes {
		return nil
	}
	if !isTerminal(in) {
		return usageError(errors.New("nobody is there to be asked: say --yes if this is what you want"))
	}
	if yes, err := goOn(ctx, in, out); err != nil || yes {
		return err
	}
	return errors.New("nothing was done")
}

func writeReportFile(path string, report *accept.Report) error {
	var b bytes.Buffer
	if err := report.WriteMarkdown(&b); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
