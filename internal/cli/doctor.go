package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"espalier/probe"
	"espalier/probe/trial"
	"espalier/xfrm"
)

const doctorLong = `Walk through all that offloading ESP to a NIC takes (kernel, NIC, driver and firmware,
topology), and answer each question with yes, no or not known, with the evidence and, for a
no, what to do about it on this distribution. Nothing is changed, but by --trial, which says
so first and asks.

Without a device it takes the NICs that could offload. What it is not let see without root it
says at the end, and holds against nobody.

It fits on one screen: answers that come from the same stand in one line, and of those that are yes there
are the names. -o wide has each with all its evidence.

Marks: ✓ yes, ✗ no and crypto offload needs it, ! no and something is lost or at risk, - no and
worth knowing, ? not known.

With --host it runs on other hosts, by ssh with your own configuration: as root if the login is
root's or may use sudo without a password, else with what the login sees. The same executable is
found there or copied and removed again; nothing stays. A host that cannot be reached is UNKNOWN.

Exit status: 0 if all devices are ready for crypto offload, 3 if one is not, 4 if that is not
known of one, 2 for a wrong command line. A device that is ready still has to show that it
encrypts: its SAs must be read back as offloaded, and its counters move.`

// doctor is what `espalier doctor` was asked for.
type doctor struct {
	system  func() probe.System
	devices []string // none: those that could offload
	as      format   // formatWide leaves nothing out
	trial   doctorTrial
	bundle  doctorBundle
	stdin   io.Reader
	stderr  io.Writer
	hosts   hostFlags
}

// doctorView is the JSON of `espalier doctor`.
type doctorView struct {
	Schema string `json:"schema"`
	OK     bool   `json:"ok"` // all devices are ready
	probe.Report
	Trials []*trial.Result `json:"trials,omitempty"` // of --trial, by device
}

func newDoctorCommand() *cobra.Command {
	d := doctor{system: probe.Here}
	var output string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "doctor [DEV…]",
		Short: "Tell whether this host can offload ESP to its NICs, and what stands in the way",
		Long:  doctorLong,
		Example: `  espalier doctor                  # the NICs that could offload
  espalier doctor p4p1             # this one
  espalier doctor -o wide          # every answer with its evidence
  espalier doctor p4p1 -o json     # for programs; .ok, .devices[].readiness
  sudo espalier doctor p4p1 --trial                # by throwaway SAs, which it asks about
  sudo espalier doctor --bundle /root/support.tar.gz
  espalier doctor --host db1,db2                   # other hosts, by ssh, all at once`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return new(knownValues).of(xfrm.ValueInterface), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			err := choose("-o", output, map[string]func(){
				"text": func() {}, "wide": func() { d.as = formatWide }, "json": func() { d.as = formatJSON }, "yaml": func() { d.as = formatYAML },
			})
			if err != nil {
				return usageError(err)
			}
			if verbose && d.as == formatText {
				d.as = formatWide
			}
			d.devices, d.stdin, d.stderr = args, cmd.InOrStdin(), cmd.ErrOrStderr()
			if elsewhere, err := d.hosts.given(cmd); err != nil {
				return err
			} else if elsewhere {
				return d.runOnHosts(cmd.Context(), cmd.OutOrStdout())
			}
			return d.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	d.hosts.addHosts(cmd)
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "text", "text, wide, json or yaml")
	f.BoolVarP(&verbose, "verbose", "v", false, "leave nothing out, as -o wide")
	d.trial.flags(cmd)
	d.bundle.flags(cmd)
	return cmd
}

func (d *doctor) run(ctx context.Context, out io.Writer) error {
	if err := d.trial.check(d.stdin); err != nil {
		return err
	}
	if err := d.bundle.open(); err != nil {
		return err
	}
	defer d.bundle.discard()
	sys := d.system()
	report, err := probe.Examine(ctx, sys, d.devices)
	if unknown := new(probe.NoDeviceError); errors.As(err, &unknown) {
		return usageError(err)
	}
	if err != nil {
		return err
	}
	if err := d.trial.run(ctx, d.stdin, d.stderr, &report); err != nil {
		return err
	}
	if err := d.bundle.write(ctx, d.stderr, sys, d.view(report)); err != nil {
		return err
	}
	if err := d.show(out, report); err != nil {
		return err
	}
	return readinessExit(report.Readiness)
}

func (d *doctor) show(out io.Writer, report probe.Report) error {
	if d.as.isData() {
		return writeData(out, d.as, d.view(report))
	}
	if err := writeReport(out, newScreen(out), report, d.as == formatWide); err != nil {
		return err
	}
	return d.trial.writeText(out)
}

func (d *doctor) view(report probe.Report) doctorView {
	return doctorView{schemaOf("doctor"), report.Readiness == probe.Ready, report, d.trial.results}
}

// readinessExit is the error, with nothing more to say, that ends a command with the code of r.
func readinessExit(r probe.Readiness) error {
	switch r {
	case probe.Ready:
		return nil
	case probe.NotReady:
		return &exitError{code: exitUnmet}
	}
	return &exitError{code: exitUnclear}
}
