package deploy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/remote"
	"espalier/tunnel"
)

// Host of a plan, and the connection to it.
type Host struct {
	tunnel.Host
	Conn *remote.Conn
	// Dial connects to it again.
	Dial func(context.Context) (*remote.Conn, error)
	// Knock tries whether a new connection succeeds, which shares nothing with others; nil: of this host.
	Knock func(context.Context) error
	// Alone tries it as a timer does; nil: of this host.
	Alone  func(context.Context) error
	detour *detour // nil: of this host
}

// GatherOptions are how hosts are reached.
type GatherOptions struct {
	SAD    string                  // of this host, as --sad
	Local  remote.Operations       // what this host does without ssh
	Remote remote.Options          // of the connections to others
	Say    func(host, line string) // progress; nil: nobody listens
	Absent Absent                  // hosts that are not asked
	Former []*config.File          // the file as it was before: hosts that are no longer in it are asked as well
	// Lost is told of a host that cannot be asked, and that is put into Absent (not nil then); nil: that is an error.
	Lost func(host string, err error)
}

// Hosts are those of a plan.
func Hosts(hosts []Host) []tunnel.Host {
	plain := make([]tunnel.Host, len(hosts))
	for i := range hosts {
		plain[i] = hosts[i].Host
	}
	return plain
}

// atMost is how many hosts are connected to at the same time: each takes an ssh of its own.
const atMost = 32

// Gather connects to the hosts of a file and asks for their facts, all at the same time. This host,
// known by its addresses, needs no ssh; it is among them only if the file has it, and here has its
// facts in any case (nil if it is not, and would not tell). What is wrong with any is told at once, and
// then no connection is left open. Hosts that cannot be reached at all, for want of an ssh, are left
// out: the planner tells them.
func Gather(ctx context.Context, f *config.File, opt GatherOptions) (hosts []Host, here *tunnel.Facts, err error) {
	if opt.Say == nil {
		opt.Say = func(string, string) {}
	}
	local := Host{Dial: func(context.Context) (*remote.Conn, error) { return remote.Local("this host", opt.Local), nil }}
	localErr := local.ask(ctx, opt.SAD)
	own := ownAddresses
	if localErr == nil {
		local.Name = local.Facts.Hostname
		here, own = local.Facts, func(a netip.Addr) bool { return here.Has(a) || here.Had(a) }
	}
	atHome := false
	destinations := map[config.SSH]bool{}
	for h := range everyHost(f, opt.Former) {
		switch {
		case opt.Absent.Has(h):
		case own(h.Address):
			atHome = true
		case h.SSH != nil && !destinations[*h.SSH]:
			destinations[*h.SSH] = true
			hosts = append(hosts, sshHost(h, opt.Remote))
		}
	}
	opt.around(hosts, f)
	failures := make([]error, len(hosts))
	var all sync.WaitGroup
	places := make(chan struct{}, atMost)
	for i := range hosts {
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if failures[i] = hosts[i].ask(ctx, ""); failures[i] == nil {
				opt.Say(hosts[i].Name, summary(hosts[i].Facts))
			}
		})
	}
	all.Wait()
	if opt.Lost != nil && ctx.Err() == nil {
		hosts, failures = opt.lose(hosts, failures)
	}
	if atHome {
		hosts = append([]Host{local}, hosts...)
		failures = append(failures, localErr)
		if localErr == nil {
			opt.Say(local.Name, summary(local.Facts))
		}
	} else {
		local.close()
	}
	if err := errors.Join(failures...); err != nil || ctx.Err() != nil {
		Close(hosts)
		return nil, nil, errors.Join(context.Cause(ctx), err)
	}
	return hosts, here, nil
}

// lose makes hosts absent that could not be asked, and leaves the others.
func (opt *GatherOptions) lose(hosts []Host, failures []error) (left []Host, _ []error) {
	for i := range hosts {
		if failures[i] == nil {
			left = append(left, hosts[i])
			continue
		}
		opt.Absent[hosts[i].SSH] = true
		opt.Lost(hosts[i].Name, failures[i])
	}
	return left, make([]error, len(left))
}

// Close ends the connections.
func Close(hosts []Host) {
	var all sync.WaitGroup
	for i := range hosts {
		all.Go(hosts[i].close)
	}
	all.Wait()
}

func (h *Host) close() {
	if h.Conn != nil {
		h.Conn.Close() // what was asked has been answered
		h.Conn = nil
	}
	if h.detour != nil {
		h.detour.end()
	}
}

// ask connects to the host and gets its facts.
func (h *Host) ask(ctx context.Context, sad string) (err error) {
	if h.Conn, err = h.Dial(ctx); err != nil {
		return err
	}
	facts, err := remote.Call[tunnel.Facts](ctx, h.Conn, steps.Facts, steps.FactsQuestion{SAD: sad}, nil)
	if err != nil {
		h.close()
		return err
	}
	h.Facts = &facts
	return nil
}

// sshHost is a host that is reached as the file says.
func sshHost(h *config.Host, opt remote.Options) Host {
	ssh := *h.SSH
	opt.Port, opt.Identity, opt.Jump = ssh.Port, ssh.Identity, ssh.Jump
	opt.Root = remote.RootRequired
	if h.Sudo == config.Off {
		opt.Root = remote.AsLogin
	}
	return Host{
		Host:  tunnel.Host{Name: ssh.To, SSH: ssh},
		Dial:  func(ctx context.Context) (*remote.Conn, error) { return remote.Dial(ctx, ssh.To, opt) },
		Knock: func(ctx context.Context) error { return remote.Knock(ctx, ssh.To, opt) },
		Alone: func(ctx context.Context) error {
			alone := opt
			alone.Alone, alone.Connect = true, dialWithin
			return remote.Knock(ctx, ssh.To, alone)
		},
	}
}

// ownAddresses is whether this host has an address, for those who may ask no more.
func ownAddresses(a netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, one := range list {
		if p, err := netip.ParsePrefix(one.String()); err == nil && p.Addr().Unmap() == a {
			return true
		}
	}
	return false
}

// summary is a line about a host: what it is, and who does ESP there.
func summary(f *tunnel.Facts) string {
	var engines []string
	for i := range f.Engines {
		e := &f.Engines[i]
		switch {
		case e.ESP.Can == tunnel.No && e.ESP6.Can == tunnel.No:
		case e.Device != "":
			engines = append(engines, "the userspace device of "+e.Device)
		default:
			engines = append(engines, "the kernel")
		}
	}
	who := strings.Join(engines, " or ")
	if who == "" {
		who = "nobody yet"
	}
	return fmt.Sprintf("%s, Linux %s, ESP by %s", f.Hostname, f.Kernel, who)
}
