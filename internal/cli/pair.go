package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/remote"
	"espalier/tunnel"
)

const pairLong = `Protect all traffic between this host and HOST: write the file of tunnels for the two, show it, and apply it.

HOST is reached by ssh, as root or with sudo -n. The two addresses are those of the ssh connection, unless
--address says which one HOST is to be protected at, or --dev by which device of this host it is reached.
The file is a beginning: change it as you like (espalier config example full has all there is), and apply
it again. A file that is there already is never written over.

Exit status: that of espalier apply.`

// pairRun is one invocation of `espalier pair`.
type pairRun struct {
	tunnelRun
	dest    string
	name    string
	address string
	from    string
	device  string
	file    string // to write
}

func newPairCommand() *cobra.Command {
	r := &pairRun{tunnelRun: tunnelRun{kind: tunnel.Apply}}
	cmd := &cobra.Command{
		Use:   "pair [USER@]HOST",
		Short: "Protect the traffic between this host and another one: write the file, and apply it",
		Long:  pairLong,
		Example: `  espalier pair root@db2
  espalier pair db2 --dev p4p1 --name db --output db.yaml`,
		Args: usageArgs(func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("with which host?")
			}
			return atMostOne(cmd, args)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.dest = args[0]
			if err := remote.CheckDestination(r.dest); err != nil {
				return usageError(fmt.Errorf("pair: %w", err))
			}
			if err := r.begin(cmd); err != nil {
				return err
			}
			c, err := r.run(cmd.Context())
			return r.conclude("pair", c, err)
		},
	}
	r.addFlags(cmd, "format")
	r.addGrace(cmd)
	r.addYes(cmd)
	f := cmd.Flags()
	f.StringVar(&r.name, "name", "", "`NAME` of the tunnel (default: of HOST)")
	f.StringVar(&r.address, "address", "", "`ADDRESS` of HOST (default: by which ssh reaches it)")
	f.StringVar(&r.from, "from", "", "`ADDRESS` of this host (default: by which it reaches HOST's)")
	f.StringVar(&r.device, "dev", "", "the `DEVICE` of this host by which HOST is reached")
	f.StringVar(&r.file, "output", "", "write to `FILE` (default: NAME.yaml)")
	return cmd
}

// twoEnds are the two hosts of a file that is to be written.
type twoEnds struct {
	here, there    netip.Addr
	hereDev, devOf string
}

func (r *pairRun) run(ctx context.Context) (*change, error) {
	r.name = cmp.Or(r.name, nameOf(r.dest))
	path, err := wholePath(cmp.Or(r.file, r.name+".yaml"))
	if err != nil {
		return nil, err
	}
	ends, err := r.find(ctx)
	if err != nil {
		return nil, err
	}
	text, err := r.write(ends)
	if err != nil {
		return nil, err
	}
	if err := writeOnce(path, text); err != nil {
		return nil, err
	}
	fmt.Fprintf(r.steps, "%s:\n\n", path)
	for line := range bytes.Lines(text) {
		fmt.Fprintf(r.steps, "    %s", line)
	}
	fmt.Fprintln(r.steps)
	c, err := r.apply(ctx, path)
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(r.stderr, "%s stays: change in it what is wrong, and go on with espalier apply %[1]s\n", path)
	}
	return c, err
}

// find asks both hosts which addresses they have, and chooses two.
func (r *pairRun) find(ctx context.Context) (e twoEnds, err error) {
	there, err := remote.Dial(ctx, r.dest, r.hosts.options(remote.RootRequired, r.stderr))
	if err != nil {
		return e, err
	}
	defer there.Close()
	here := remote.Local("this host", remoteOperations())
	defer here.Close()
	theirs, err := remote.Call[tunnel.Facts](ctx, there, steps.Facts, steps.FactsQuestion{}, nil)
	if err != nil {
		return e, err
	}
	ours, err := remote.Call[tunnel.Facts](ctx, here, steps.Facts, steps.FactsQuestion{SAD: r.sad}, nil)
	if err != nil {
		return e, err
	}
	if ours.Same(&theirs) {
		return e, fmt.Errorf("%s is this very host", r.dest)
	}
	if e.there, e.here, err = r.addresses(there.Session(), &ours, &theirs); err != nil {
		return e, err
	}
	var lost error
	if e.hereDev, lost = deviceOf(&ours, e.here); lost != nil {
		err = errors.Join(err, fmt.Errorf("this host %w: say which with --from", lost))
	}
	if e.devOf, lost = deviceOf(&theirs, e.there); lost != nil {
		err = errors.Join(err, fmt.Errorf("%s %w: say which with --address", r.dest, lost))
	}
	return e, err
}

// addresses chooses one of each host: those that were said, else in a network that --dev is in, else those
// of the ssh connection.
func (r *pairRun) addresses(s remote.Session, ours, theirs *tunnel.Facts) (there, here netip.Addr, err error) {
	here = s.Client.Unmap()
	there = s.Server.Unmap()
	if r.device != "" && r.address == "" {
		if here, there, err = neighbours(ours, theirs, r.device); err != nil {
			return there, here, err
		}
	}
	if r.address != "" {
		if there, err = netip.ParseAddr(r.address); err != nil {
			return there, here, usageError(fmt.Errorf("pair: --address %s: not an IP address", shorten(r.address)))
		}
		if here, err = sourceFor(there); err != nil {
			return there, here, err
		}
	}
	if r.from != "" {
		if here, err = netip.ParseAddr(r.from); err != nil {
			return there, here, usageError(fmt.Errorf("pair: --from %s: not an IP address", shorten(r.from)))
		}
	}
	if !there.IsValid() || !here.IsValid() {
		return there, here, errors.New("the addresses of the ssh connection are not known: say --address")
	}
	return there, here, nil
}

// neighbours are addresses of the two hosts in one network that a device of ours is in.
func neighbours(ours, theirs *tunnel.Facts, device string) (here, there netip.Addr, err error) {
	d := ours.Device(device)
	if d == nil {
		return here, there, fmt.Errorf("--dev %w", knownDevice(device))
	}
	for _, own := range d.Addresses {
		for i := range theirs.Devices {
			for _, other := range theirs.Devices[i].Addresses {
				if own.Masked() == other.Masked() && !own.Addr().IsLinkLocalUnicast() {
					return own.Addr(), other.Addr(), nil
				}
			}
		}
	}
	return here, there, fmt.Errorf("no address of the other host is in a network of %s: say --address", device)
}

// sourceFor is the address that packets to another one come from.
func sourceFor(there netip.Addr) (netip.Addr, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(there, 9))) // sends nothing
	if err != nil {
		return netip.Addr{}, fmt.Errorf("there is no route to %s: %w", there, err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

func deviceOf(f *tunnel.Facts, a netip.Addr) (string, error) {
	var all []string
	for i := range f.Devices {
		d := &f.Devices[i]
		for _, p := range d.Addresses {
			if p.Addr() == a {
				return d.Name, nil
			}
			all = append(all, p.Addr().String()+" ("+d.Name+")")
		}
	}
	return "", fmt.Errorf("does not have the address %s, but %s", a, strings.Join(all, ", "))
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// nameOf makes a tunnel's name of a host's.
func nameOf(dest string) string {
	host := dest[strings.LastIndexByte(dest, '@')+1:]
	return cmp.Or(strings.Trim(notInNames.ReplaceAllString(host, "-"), "-."), "pair")
}

// write is the file, which is checked.
func (r *pairRun) write(e twoEnds) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# All traffic between two hosts; espalier config example full shows what else there is.\n")
	fmt.Fprintf(&b, "tunnels:\n  - name: %s\n    hosts:\n", r.name)
	fmt.Fprintf(&b, "      - {address: %q, dev: %q}\n", e.here, e.hereDev)
	fmt.Fprintf(&b, "      - {address: %q, dev: %q, ssh: %q}\n", e.there, e.devOf, r.dest)
	fmt.Fprintf(&b, "    offload: auto        # no | crypto | packet | auto | require\n")
	_, err := config.Parse(r.name+".yaml", b.Bytes())
	return b.Bytes(), err
}

// writeOnce writes a file that is not there, or has this content already.
func writeOnce(path string, text []byte) error {
	err := writeNew(path, text, 0o644)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if there, err := os.ReadFile(path); err == nil && slices.Equal(there, text) {
		return nil
	}
	return fmt.Errorf("%s is there already, and is never written over: espalier apply %[1]s, or say another --output", path)
}
