package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"espalier/internal/usedkeys"
	"espalier/probe"
	"espalier/probe/trial"
	"espalier/xfrm/client"
)

// doctorTrial is --trial of the doctor's.
type doctorTrial struct {
	wanted, yes bool
	results     []*trial.Result // of the devices that were tried
}

func (t *doctorTrial) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&t.wanted, "trial", false, "have the kernel add throwaway SAs to the NIC, and read them back")
	f.BoolVarP(&t.yes, "yes", "y", false, "make the trial without asking")
}

// trialEffects are what a trial does besides, each on a line of its own.
const trialEffects = `
  - one at a time, with fresh random keys, between addresses for documentation (192.0.2.1,
    198.51.100.1, 2001:db8::1, 2001:db8:ffff::1), on SPIs and with a reqid that no SA here has
  - each is read back and deleted at once; what a killed run leaves expires within 10 seconds,
    and the next run deletes it before that
  - no SA or policy that is there is touched, and no packet is sent by these SAs
  - the kernel may load modules for ESP and AES-GCM for them, which stay loaded
  - while an SA is in it, a NIC may refuse to be reconfigured (e-switch mode, tc offload), and a
    driver may look for an address's neighbour; programs that watch SAs see them come and go
`

// errDeclined is an answer other than yes.
var errDeclined = errors.New("the trial was declined: nothing has been added")

// check finds what is wrong with the command line.
func (t *doctorTrial) check(in io.Reader) error {
	switch {
	case t.yes && !t.wanted:
		return usageError(errors.New("--yes goes with --trial"))
	case t.wanted && !t.yes && !isTerminal(in):
		return usageError(errors.New("--trial asks before it adds SAs, and here is no terminal: say --yes as well"))
	}
	return nil
}

func isTerminal(stream any) bool {
	f, ok := fileOf(stream)
	return ok && term.IsTerminal(int(f.Fd()))
}

// confirm says what a trial does to devices, and asks whoever is at the terminal for leave, or takes
// --yes for it.
func (t *doctorTrial) confirm(ctx context.Context, in io.Reader, out io.Writer, names []string) error {
	fmt.Fprintf(out, "The trial has the kernel add %d throwaway SAs to %s:%s", len(trial.Plan()), strings.Join(names, ", and to "), trialEffects)
	if t.yes {
		return nil
	}
	if yes, err := goOn(ctx, in, out); err != nil || yes {
		return err
	}
	return errDeclined
}

// goOn asks whoever is at the terminal.
func goOn(ctx context.Context, in io.Reader, out io.Writer) (yes bool, err error) {
	fmt.Fprint(out, "Go on? [y/N] ")
	answer := make(chan string, 1)
	go func() { // which ends with the process, if nobody answers
		line, _ := bufio.NewReader(in).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		word := strings.ToLower(strings.TrimSpace(line))
		return word == "y" || word == "yes", nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// run makes the trial on the report's devices, with the leave of who is asked, and judges them again.
// What went wrong on a device stands in its layer, and the next is tried; err is for what ends all of
// it.
func (t *doctorTrial) run(ctx context.Context, in io.Reader, progress io.Writer, report *probe.Report) error {
	var names []string
	for _, d := range report.Devices {
		names = append(names, d.Name)
	}
	switch {
	case !t.wanted:
		return nil
	case len(names) == 0:
		fmt.Fprintln(progress, "no trial: there is no device to try; name one (espalier doctor DEV --trial)")
		return nil
	}
	if err := needRoot("--trial adds SAs"); err != nil {
		return err
	}
	if err := t.confirm(ctx, in, progress, names); err != nil {
		return err
	}
	if err := keepSecrets(); err != nil {
		return err
	}
	for i := range report.Devices {
		d := &report.Devices[i]
		result, err := tryDevice(ctx, progress, d.Name)
		if ctx.Err() != nil {
			return err
		}
		layer := trial.Failed(err)
		if result != nil {
			t.results = append(t.results, result)
			layer = result.Layer()
			if n := result.CleanedUp; n > 0 {
				fmt.Fprintf(progress, "%d SA of a trial that was killed has been deleted\n", n)
			}
		}
		if err != nil {
			fmt.Fprintln(progress, err)
		}
		if d.Readiness == probe.NotReady { // and what to do about it is said already
			layer.Checks[0].Fix = ""
		}
		d.Layers = append(d.Layers, layer)
	}
	report.Conclude()
	return nil
}

// trialTime is how long a trial of one device may take: much more than firmware needs.
const trialTime = 2 * time.Minute

// tryDevice makes the trial on one device.
func tryDevice(ctx context.Context, progress io.Writer, name string) (*trial.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, trialTime)
	defer cancel()
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("trial on %s: no such device", name)
	}
	nic, err := probe.AskNIC(name)
	if err != nil {
		return nil, err
	}
	kernel, err := client.Kernel()
	if err != nil {
		return nil, fmt.Errorf("trial on %s: %w", name, err)
	}
	defer kernel.Close()
	o := trial.Options{Device: name, Ifindex: dev.Index, Driver: nic.Driver, StateDir: stateDir(), Scope: usedkeys.KernelScope()}
	if isTerminal(progress) {
		o.Progress = func(done, total int) { fmt.Fprintf(progress, "\rtrial on %s: %d of %d", name, done+1, total) }
		defer fmt.Fprint(progress, "\r"+clearLine)
	}
	result, err := trial.Run(ctx, kernel, o)
	return result, err
}

// writeText prints the matrices.
func (t *doctorTrial) writeText(w io.Writer) error {
	for _, r := range t.results {
		fmt.Fprintln(w)
		if err := r.WriteText(w); err != nil {
			return err
		}
	}
	return nil
}
