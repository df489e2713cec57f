package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/remote"
	"espalier/tunnel"
)

// Detours notes in a plan which pairs protect the very ssh by which its hosts are reached, and tells what becomes of it
// when one of them is booted; all that it tells is returned, too, of pairs that change. hosts are those of the plan,
// connected.
func Detours(plan *tunnel.Plan, hosts []Host) (notes []string) {
	for i := range plan.Pairs {
		p := &plan.Pairs[i]
		if p.Action == tunnel.Remove {
			continue
		}
		for far := range hosts {
			if h := &hosts[far]; h.Conn != nil && h.SSH != (config.SSH{}) && noteDetour(p, h.Conn.Session(), far, hosts) {
				note := sshNote(h.Name, h.Conn.Session().Port)
				p.Notes = append(p.Notes, note)
				if p.Action != tunnel.Keep && !slices.Contains(notes, note) {
					notes = append(notes, note)
				}
			}
		}
	}
	return notes
}

func sshNote(host string, port uint16) string {
	return fmt.Sprintf("ssh to %s goes through the tunnel. When %[1]s has been booted, ssh alone goes outside of it until it is back; "+
		"when this host has been booted, %[1]s cannot be reached by this address: `bypass: [tcp/%d]` leaves ssh outside of the tunnel for good", host, port)
}

// noteDetour notes the ssh to a host at the ends of a pair, if it protects that.
func noteDetour(p *tunnel.Pair, s remote.Session, far int, hosts []Host) (protected bool) {
	client, server := s.Client.Unmap(), s.Server.Unmap()
	if !client.IsValid() || !server.IsValid() || client.Is4() != server.Is4() || s.Port == 0 {
		return false
	}
	for i := range p.Ends {
		e := &p.Ends[i]
		d := tunnel.Detour{Local: client, Remote: server, Port: s.Port}
		switch {
		case !e.Local.IsValid():
			continue
		case e.Host == far:
			d = tunnel.Detour{Local: server, Remote: client, Port: s.Port, Serves: true}
		case hosts[e.Host].SSH != (config.SSH{}):
			continue
		}
		if d.Protects(e.Policies, ipsec.Outbound) != nil && d.Protects(e.Policies, ipsec.Inbound) != nil {
			e.Detours = append(e.Detours, d)
			protected = protected || d.Serves
		}
	}
	return protected
}

// detour is the ssh to a host outside of its tunnels, for as long as it is needed.
type detour struct {
	host    string
	remotes []netip.Addr      // the host's addresses in the file
	local   remote.Operations // what this host does
	tell    io.Writer         // nil: nobody

	mu    sync.Mutex
	taken bool
}

// around dials again outside of the tunnels of this host to the other one, if that does not answer: it may have lost
// its SAs.
func (d *detour) around(dial func(context.Context) (*remote.Conn, error)) func(context.Context) (*remote.Conn, error) {
	return func(ctx context.Context) (*remote.Conn, error) {
		conn, err := dial(ctx)
		if !silent(err) || !d.take(ctx) {
			return conn, err
		}
		conn, again := dial(ctx)
		if again != nil {
			d.end()
		}
		return conn, again
	}
}

// silent reports whether nothing at all came from a host.
func silent(err error) bool {
	e, ok := errors.AsType[*remote.Error](err)
	return ok && e.Reason == remote.Unreachable && strings.Contains(e.Detail, "timed out")
}

// take has ssh go outside of the tunnels, and reports whether it was in any.
func (d *detour) take(ctx context.Context) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer, err := d.ask(ctx, false)
	if err != nil { // of which the caller knows no more than that the host does not answer
		d.say("its tunnel may be lost, and ssh cannot go outside of it: %v", err)
		return false
	}
	if len(answer.Tunnels) == 0 {
		return false
	}
	d.taken = true
	slices.Sort(answer.Tunnels)
	d.say("does not answer through its tunnel (%s): ssh goes outside of it until the tunnel is back", strings.Join(slices.Compact(answer.Tunnels), ", "))
	return true
}

func (d *detour) say(format string, args ...any) {
	if d.tell != nil {
		fmt.Fprintf(d.tell, "%s: %s\n", d.host, remote.Printable(fmt.Sprintf(format, args...)))
	}
}

// end has ssh go through the tunnels again.
func (d *detour) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.taken {
		return
	}
	d.taken = false
	ctx, cancel := context.WithTimeout(context.Background(), oneCall)
	defer cancel()
	if _, err := d.ask(ctx, true); err != nil {
		d.say("ssh goes through its tunnel again when this command has ended: %v", err) // which the keeper sees
	}
}

func (d *detour) ask(ctx context.Context, end bool) (steps.DetourAnswer, error) {
	if d.local[steps.Detour] == nil {
		return steps.DetourAnswer{}, nil
	}
	conn := remote.Local("this host", d.local)
	defer conn.Close()
	return remote.Call[steps.DetourAnswer](ctx, conn, steps.Detour, steps.DetourQuestion{Remotes: d.remotes, End: end}, nil)
}

// around has all hosts but this one reached outside of tunnels they have lost.
func (opt *GatherOptions) around(hosts []Host, f *config.File) {
	for i := range hosts {
		h := &hosts[i]
		h.detour = &detour{host: h.Name, local: opt.Local, tell: opt.Remote.Stderr}
		for j := range f.Tunnels {
			for k := range f.Tunnels[j].Hosts {
				if one := &f.Tunnels[j].Hosts[k]; one.SSH != nil && *one.SSH == h.SSH {
					h.detour.remotes = append(h.detour.remotes, one.Address)
				}
			}
		}
		h.Dial = h.detour.around(h.Dial)
	}
}
