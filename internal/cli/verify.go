package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"espalier/ipsec"
	"espalier/remote"
	"espalier/verdict"
	"espalier/verdict/observe"
	"espalier/verdict/verify"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// verifyRun is one `espalier verify`.
type verifyRun struct {
	wish      verify.Wish
	probes    uint64
	patience  time.Duration
	peer      string
	peerSAD   string
	ssh       hostFlags
	tap       string
	noControl bool
	require   string
	sadFlag   string
	format    format

	stdin          io.Reader
	stdout, stderr io.Writer
}

func newVerifyCommand() *cobra.Command {
	var r verifyRun
	var from, to, output string
	cmd := &cobra.Command{
		Use:   "verify [SPI | PEER-ADDRESS]",
		Short: "Prove that an SA's traffic leaves this host encrypted, and by whom",
		Long: `Send probe traffic through an outbound SA, and hear from outside of this host what became of it. Who
encrypts is what this host's own evidence says, as in espalier status; that somebody does can only be
proven by others:

  --peer   the receiver's counters, asked for over ssh: ICVs that its CPU has verified are proof. Where a NIC
           decrypts there too, one packet with nothing encrypted is sent as well, which it has to refuse
  --tap    a capture from the wire, behind the NIC: the probes must not be readable in it, and their ICVs must
           verify, where the SA's key can be had

Without either the answer is UNKNOWN. The probes are UDP datagrams to the discard port, or echo requests where
the policy takes no UDP. Nothing is changed on either host. It needs root.

Exit status: 0 if encryption is proven (and --require holds), 3 if not, 1 if nothing could be tried, 2 for a wrong
command line.`,
		Example: `  espalier verify --peer root@storage2
  espalier verify 0x28f39549 --peer root@storage2 --require hardware
  ssh switch tcpdump -U -s 0 -w - -i p3 esp | espalier verify --tap -`,
		Args: usageArgs(atMostOne),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := errors.Join(
				r.parse(args, from, to),
				choose("-o", output, map[string]func(){"text": func() {}, "json": func() { r.format = formatJSON }, "yaml": func() { r.format = formatYAML }}),
				choose("--require", strings.ToLower(r.require), map[string]func(){"": func() {}, "hardware": func() {}}),
			)
			if err != nil {
				return usageError(err)
			}
			r.stdin, r.stdout, r.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return r.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.peer, "peer", "", "ask the receiver at `SSH-DEST`")
	f.StringVar(&r.peerSAD, "peer-sad", "", "which SAD there: kernel, unix:PATH or auto")
	f.StringVar(&r.tap, "tap", "", "look into a capture in pcap format that is being written to `FILE`, or comes by standard input (-)")
	f.StringVar(&from, "from", "", "`ADDRESS` of this host that the probes come from")
	f.StringVar(&to, "to", "", "`ADDRESS` that the probes are for")
	f.Uint64Var(&r.probes, "count", 10, "how many `PROBES`")
	f.DurationVar(&r.patience, "wait", 3*time.Second, "how long what was sent may take to be counted and captured")
	f.BoolVar(&r.noControl, "no-control", false, "never send a packet with nothing encrypted")
	f.StringVar(&r.require, "require", "", "what has to come out: hardware")
	f.StringVar(&r.sadFlag, "sad", "", "kernel, unix:PATH or auto (or ESPALIER_SAD)")
	f.StringVarP(&output, "output", "o", "text", "text, json or yaml")
	r.ssh.addConfig(cmd)
	return cmd
}

func atMostOne(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("there is no place for %q", shorten(args[1]))
	}
	return nil
}

// parse reads what the words say: an address has a dot or a colon, all else is an SPI.
func (r *verifyRun) parse(args []string, from, to string) error {
	const most = 10_000
	if r.probes == 0 || r.probes > most {
		return fmt.Errorf("--count %d: 1 to %d probes", r.probes, most)
	}
	var errs []error
	address := func(flag, text string, into *netip.Addr) {
		if text == "" {
			return
		}
		var err error
		if *into, err = netip.ParseAddr(text); err != nil {
			errs = append(errs, fmt.Errorf("%s%s: not an IP address", flag, shorten(text)))
		}
	}
	address("--from ", from, &r.wish.From)
	address("--to ", to, &r.wish.To)
	if len(args) == 1 {
		if spi, err := strconv.ParseUint(args[0], 0, 32); err == nil && spi > 0 {
			r.wish.SPI = ipsec.SPI(spi)
		} else if address("", args[0], &r.wish.Peer); !r.wish.Peer.IsValid() {
			errs = []error{fmt.Errorf("%s is neither an SPI nor an IP address", shorten(args[0]))}
		}
	}
	return errors.Join(errs...)
}

func (r *verifyRun) run(ctx context.Context) error {
	if err := needRoot("verify reads the SAD and sends through it"); err != nil {
		return err
	}
	if err := keepSecrets(); err != nil {
		return err
	}
	sad, e, err := openSAD(r.sadFlag)
	if err != nil {
		return err
	}
	defer e.Close()
	fmt.Fprintf(r.stderr, "sad: %s\n", sad)
	s := &verify.Session{Engine: e, Probes: r.probes, Control: !r.noControl && sad.socket == "", Patience: r.patience}
	if s.Flow, err = r.flow(ctx, e); err != nil {
		return err
	}
	defer s.Flow.SA.WipeKeys()
	if s.Tap, err = r.openTap(); err != nil {
		return err
	}
	if s.Tap != nil {
		defer s.Tap.Close()
	}
	if r.peer != "" {
		conn, err := connect(ctx, r.peer, r.ssh.options(remote.RootRequired, r.stderr))
		if err != nil {
			return err
		}
		defer conn.Close()
		s.Peer = askPeer(conn, r.peerSAD)
	}
	o, err := observe.Open(e, sad.socket != "")
	if err != nil {
		return err
	}
	defer o.Close()
	s.Watch = verify.Watcher(o, s.Flow)
	report, err := s.Run(ctx)
	if err != nil {
		return err
	}
	return r.show(sad, s.Flow, report)
}

// openSAD opens the SAD that the flag, the environment or the rules of auto name.
func openSAD(flag string) (sadChoice, engine, error) {
	dir, err := client.SocketDir()
	if err != nil {
		return sadChoice{}, nil, err
	}
	sad, err := chooseSAD(flag, os.Getenv("ESPALIER_SAD"), dir, nil)
	if err != nil {
		return sad, nil, statusSADError(err)
	}
	e, err := sad.open()
	return sad, e, err
}

// flow chooses what is sent through which SA.
func (r *verifyRun) flow(ctx context.Context, e engine) (verify.Flow, error) {
	var states []*xfrm.State
	for s, err := range e.States(ctx, xfrm.StateFilter{}) {
		if err != nil {
			return verify.Flow{}, err
		}
		states = append(states, s)
	}
	var policies []*xfrm.Policy
	for p, err := range e.Policies(ctx) {
		if err != nil {
			return verify.Flow{}, err
		}
		policies = append(policies, p)
	}
	own, err := ownAddresses()
	if err != nil {
		return verify.Flow{}, err
	}
	f, err := verify.Choose(states, policies, own, r.wish)
	for _, s := range states {
		if s != f.SA {
			s.WipeKeys()
		}
	}
	return f, err
}

func ownAddresses() (own []netip.Addr, err error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this host: %w", err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().Unmap())
		}
	}
	return own, nil
}

// openTap opens what --tap names.
func (r *verifyRun) openTap() (*os.File, error) {
	switch r.tap {
	case "":
		return nil, nil
	case "-":
		f, ok := r.stdin.(*os.File)
		if !ok {
			return nil, errors.New("--tap -: standard input is no file")
		}
		return f, nil
	}
	f, err := os.Open(r.tap)
	if err != nil {
		return nil, fmt.Errorf("--tap: %w", plainPathError(err))
	}
	return f, nil
}

// unmet is the exit status of a proof that failed, or is missing, or proves another than wanted.
func (r *verifyRun) unmet(report verify.Report) error {
	switch {
	case report.Result != verdict.Proven:
		return &exitError{exitUnmet, nil}
	case r.require != "" && report.Proof.Verdict != verdict.Hardware:
		return &exitError{exitUnmet, fmt.Errorf("--require hardware is unmet: %s", report.Proof.Verdict)}
	}
	return nil
}
