package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"espalier/verdict"
	"espalier/verdict/observe"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

const statusLong = `Show who encrypts the traffic of each pair of SAs, and how that is known:

  HARDWARE   the NIC: by its counters 99 % of the SA's packets or more must have been its own
  SOFTWARE   the CPU
  MIXED      both
  EMULATED   an offload device that is no NIC, such as espalier's own
  IDLE       nothing was sent or received meanwhile
  UNKNOWN    the evidence does not suffice; the reason says what is missing

It reads the SAs and the NIC's counters twice, and so takes as long as --interval. Besides it shows
when an SA will have used up its sequence numbers or reached a limit, what was dropped and why,
policies that no SA serves, SAs that serve none, and what is not as safe as it seems.

It changes nothing (but a kernel whose xfrm_user is a module loads it when it is asked for SAs), and shows no
keys. It needs root. --probe puts kprobes on the kernel's own ESP
while it watches, to see whether that has encrypted what the NIC has not counted.

Exit status: 0; 3 if --require is unmet; 1 if the SAs could not be read; 2 for a wrong command line.`

// statusRun is one invocation of `espalier status`.
type statusRun struct {
	sad      string
	interval time.Duration
	watch    bool
	output   string
	require  string
	devices  []string
	probe    bool

	format format
	out    io.Writer
	errors io.Writer
	now    func() time.Time
	names  interfaceNames

	resized <-chan os.Signal // the terminal of --watch got another size; nil: there is none
	fit     func()           // shows what there is in the new one
}

func newStatusCommand() *cobra.Command {
	r := &statusRun{now: time.Now}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show who encrypts each SA's traffic, and what is wrong with SAs and policies",
		Long:  statusLong,
		Example: `  espalier                                       # the same as espalier status
  espalier status --watch
  espalier status --interval 10s --require hardware && echo offloaded
  espalier status -o json | jq '.pairs[] | [.peer, .verdict]'`,
		Args: usageArgs(noArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return r.main(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&r.sad, "sad", "", "kernel, unix:PATH or auto: whose SAs (default auto, or ESPALIER_SAD)")
	f.DurationVar(&r.interval, "interval", time.Second, "watch for this `TIME`")
	f.BoolVarP(&r.watch, "watch", "w", false, "again and again, until Ctrl-C")
	f.StringVarP(&r.output, "output", "o", "text", "text, wide, json or yaml")
	f.StringVar(&r.require, "require", "", "exit with 3 unless every SA shown is of this `VERDICT`: hardware")
	f.StringSliceVar(&r.devices, "dev", nil, "only SAs offloaded to `DEVICE`")
	f.BoolVar(&r.probe, "probe", false, "also count what the kernel's own ESP encrypts, by kprobes")
	cmd.RegisterFlagCompletionFunc("sad", fixedWords("kernel", "auto", "unix:"))
	cmd.RegisterFlagCompletionFunc("output", fixedWords("text", "wide", "json", "yaml"))
	cmd.RegisterFlagCompletionFunc("require", fixedWords("hardware"))
	cmd.RegisterFlagCompletionFunc("dev", completeDevices)
	return cmd
}

// knownDevice names the devices there are if there is none by a name.
func knownDevice(name string) error {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range all {
		if i.Name == name {
			return nil
		}
		names = append(names, i.Name)
	}
	return fmt.Errorf("%s: there is no such device here, but %s", shorten(name), strings.Join(names, ", "))
}

func fixedWords(words ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeDevices(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return (&knownValues{}).of(xfrm.ValueInterface), cobra.ShellCompDirectiveNoFileComp
}

func (r *statusRun) main(cmd *cobra.Command) error {
	err := errors.Join(
		choose("-o", r.output, map[string]func(){"text": func() {}, "wide": func() { r.format = formatWide },
			"json": func() { r.format = formatJSON }, "yaml": func() { r.format = formatYAML }}),
	)
	if r.require != "" {
		err = errors.Join(err, choose("--require", strings.ToLower(r.require), map[string]func(){"hardware": func() {}}))
	}
	switch {
	case err != nil:
	case r.interval < 0 || r.interval > 24*time.Hour:
		err = fmt.Errorf("--interval %s: a time from 0 to 24h goes here", r.interval)
	case r.watch && r.require != "":
		err = errors.New("--watch has no end for --require to be judged at: leave one out")
	}
	if err != nil {
		return usageError(fmt.Errorf("status: %w", err))
	}
	for _, name := range r.devices {
		if err := knownDevice(name); err != nil {
			return usageError(fmt.Errorf("status: --dev %w", err))
		}
	}
	r.out, r.errors = cmd.OutOrStdout(), cmd.ErrOrStderr()
	return r.run(cmd.Context())
}

func (r *statusRun) run(ctx context.Context) error {
	dir, err := client.SocketDir()
	if err != nil {
		return err
	}
	choice, err := chooseSAD(r.sad, os.Getenv("ESPALIER_SAD"), dir, r.devices)
	if err != nil {
		return statusSADError(err)
	}
	fmt.Fprintf(r.errors, "sad: %s\n", choice)
	if r.probe && choice.socket != "" {
		return usageError(errors.New("status: --probe is about the kernel's own ESP, and these SAs are a userspace device's"))
	}
	if r.watch {
		return r.watching(ctx, choice)
	}
	engine, observer, err := r.open(choice)
	if err != nil {
		return err
	}
	defer engine.Close()
	defer observer.Close()
	debug.SetGCPercent(-1) // what is read is in use until the end, which is near
	debug.SetMemoryLimit(oneShotMemory)
	v, err := r.look(ctx, choice, engine, observer)
	if err != nil {
		return err
	}
	if err := r.show(r.out, v); err != nil {
		return err
	}
	if !v.OK {
		return &exitError{exitUnmet, fmt.Errorf("--require %s is unmet: %s", r.require, v.unmet(verdict.Hardware))}
	}
	return nil
}

func (r *statusRun) open(choice sadChoice) (engine, *observe.Observer, error) {
	engine, err := choice.open()
	if err != nil {
		return nil, nil, needsNetAdmin(err)
	}
	observer, err := observe.Open(engine, choice.socket != "")
	if err == nil && r.probe {
		if err = observer.CountCPU(); err != nil {
			observer.Close()
			err = fmt.Errorf("--probe: %w", err)
		}
	}
	if err != nil {
		engine.Close()
		return nil, nil, err
	}
	return engine, observer, nil
}

// oneShotMemory is when the collector works after all, in bytes: ten times what ten thousand SAs take.
const oneShotMemory = 1 << 30

// look observes for the interval. Where there is neither SA nor policy there is nothing to wait for.
func (r *statusRun) look(ctx context.Context, choice sadChoice, engine engine, observer *observe.Observer) (*statusView, error) {
	interval := r.interval
	if r.watch {
		interval = max(interval, leastWatch)
	} else if empty(ctx, engine) {
		interval = 0
	}
	o, err := observer.During(ctx, func(ctx context.Context) error { return r.wait(ctx, interval) })
	if err != nil {
		return nil, needsNetAdmin(err)
	}
	v := newStatusView(o, r.now(), r.deviceName)
	v.SAD, v.Kernel = choice.name(), kernelName()
	v.limit(r.devices)
	v.OK = r.require == "" || v.unmet(verdict.Hardware) == ""
	return v, nil
}

// wait lets the interval go by.
func (r *statusRun) wait(ctx context.Context, interval time.Duration) error {
	end := time.After(interval)
	for {
		select {
		case <-end:
			return nil
		case <-r.resized:
			r.fit()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leastWatch is how often --watch looks at the most.
const leastWatch = 100 * time.Millisecond

// empty reports whether there are no SAs and no policies, so that nothing can be dropped for the want of one.
func empty(ctx context.Context, engine engine) bool {
	sas, err := engine.SADInfo(ctx)
	policies, perr := engine.SPDInfo(ctx)
	return err == nil && perr == nil && sas.Count == 0 && policies.In+policies.Out+policies.Fwd == 0
}

// unmet names the first SA shown that has another verdict, and why; "" if there are SAs and all have it.
func (v *statusView) unmet(want verdict.Verdict) string {
	if len(v.Pairs) == 0 {
		return "there is no SA"
	}
	for i := range v.Pairs {
		for _, sa := range v.Pairs[i].sas() {
			if sa.Verdict != want {
				return fmt.Sprintf("SA %s %s→%s is %s, %s", sa.SPI, sa.Src, sa.Dst, sa.Verdict, sa.Reason)
			}
		}
	}
	return ""
}

func (r *statusRun) deviceName(index int) string {
	if name := r.names.name(index); name != "" {
		return name
	}
	return fmt.Sprintf("interface %d", index)
}

func (r *statusRun) show(w io.Writer, v *statusView) error {
	switch {
	case r.format.isData():
		return writeData(w, r.format, v)
	case len(v.Pairs) == 0 && v.Policies == 0 && len(r.devices) == 0:
		_, err := io.WriteString(w, howToBegin)
		return err
	case r.format == formatWide:
		return writeWide(w, v)
	}
	return writeStatus(w, newScreen(r.out), v)
}

const howToBegin = `There are no SAs and no policies here: nothing is encrypted by IPsec.

To begin:
  espalier demo                  see it work, on this machine and without a NIC
  espalier pair root@HOST        protect all traffic with another host
  espalier xfrm --help           add SAs and policies with the words of ip xfrm
  espalier dataplane --dev DEV   a userspace offload device, where the NIC cannot
  espalier --help                all commands
`

// statusSADError makes what is wrong with --sad a usage error, as everywhere but in xfrm.
func statusSADError(err error) error {
	var e *exitError
	if errors.As(err, &e) && e.code == exitXfrmSyntax {
		return usageError(e.err)
	}
	return needsNetAdmin(err)
}

// needsNetAdmin explains what reading SAs takes.
func needsNetAdmin(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("reading SAs takes root (CAP_NET_ADMIN): run it with sudo; espalier --help has all commands (%w)", err)
	}
	return err
}

// kernelName is the running kernel's release.
func kernelName() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
