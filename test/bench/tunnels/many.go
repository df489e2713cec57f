package tunnels

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"espalier/internal/netns"
	"espalier/test/bench/device/hosts"
	"espalier/test/bench/report"
	"espalier/test/lab"
)

// star is a host in the middle, from which a tunnel leads to each of the others, through a switch.
type star struct {
	*site
	n       int
	devices []*hosts.Process
	servers []*lab.SSHServer
}

const mostHosts = 200

var middle = netip.MustParsePrefix("10.20.0.1/16")

func outer(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 20, 1, byte(i + 1)}), middle.Bits())
}

// newStar makes n hosts around one. ssh goes by the addresses that the tunnels protect.
func (s *stage) newStar(ctx context.Context, n int) (*star, error) {
	wires, err := s.newHost("switch")
	if err != nil {
		return nil, err
	}
	err = wires.Do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge"}}
		return errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge))
	})
	if err != nil {
		return nil, fmt.Errorf("make a bridge: %w", err)
	}
	hub, err := s.newHost("hub")
	if err != nil {
		return nil, err
	}
	t := &star{site: s.newSite(hub), n: n}
	if err := t.join(ctx, wires, hub, middle); err != nil {
		return nil, err
	}
	var file strings.Builder
	file.WriteString("tunnels:\n")
	for i := range n {
		name := fmt.Sprintf("h%02d", i+1)
		h, err := s.newHost(name)
		if err != nil {
			return nil, err
		}
		if err := t.join(ctx, wires, h, outer(i)); err != nil {
			return nil, err
		}
		t.servers = append(t.servers, t.serve(h, name, outer(i).Addr()))
		fmt.Fprintf(&file, "  - name: to-%s\n    hosts: [{address: %s, dev: %s}, {address: %s, dev: %[3]s, ssh: root@%[1]s}]\n",
			name, middle.Addr(), hosts.Device, outer(i).Addr())
	}
	return t, os.WriteFile(t.file, []byte(file.String()), 0o644)
}

// join connects a host to the switch, and starts its device.
func (t *star) join(ctx context.Context, wires, h *hosts.Host, at netip.Prefix) error {
	port := "to-" + h.Name
	err := netns.Cable(netns.End{NS: wires.NS, Name: port}, netns.End{NS: h.NS, Name: hosts.Device, Addresses: []netip.Prefix{at}})
	if err != nil {
		return err
	}
	err = wires.Do(func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("bridge")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(link, bridge)
	})
	if err != nil {
		return err
	}
	d, err := t.stage.startDevice(ctx, h)
	t.devices = append(t.devices, d)
	return err
}

// serve runs an ssh server on a host, with espalier installed, and its state on this machine's disk.
func (s *site) serve(h *hosts.Host, name string, at netip.Addr) *lab.SSHServer {
	state := filepath.Join(h.Dir, "state")
	return s.ssh.Serve(&lab.Host{NS: h.NS, Name: name}, name, at, "mkdir -p "+state+" state bin; mount --bind "+state+" state\n"+
		"echo 'SetEnv ESPALIER_STATE_DIR=/run/sshd/state' >>sshd_config\n"+
		": >bin/espalier; mount --bind "+s.stage.espalier+" bin/espalier; mount --rbind bin /usr/local/bin\n")
}

// handshakes connects to all hosts by ssh alone, twice, all at once.
func (t *star) handshakes(ctx context.Context) (cost, error) {
	var names strings.Builder
	for i := range t.n {
		fmt.Fprintf(&names, "h%02d\n", i+1)
	}
	const all = `for again in 1 2; do for h in $1; do ssh -F "$0" $h true </dev/null || echo failed >&2 & done; wait; done`
	return t.measure(ctx, "sh", "-c", all, t.ssh.Config, names.String())
}

// manyHosts applies tunnels to n hosts at once, applies them again, rotates them, and takes them down.
func manyHosts(ctx context.Context, s *stage, n, runs int) ([]report.Result, error) {
	progress("setting up %d hosts", n+1)
	t, err := s.newStar(ctx, n)
	if err != nil {
		return nil, err
	}
	all := map[string][]parts{}
	for run := range runs {
		for _, step := range []struct {
			name string
			do   func() (cost, error)
		}{
			{handshakes, func() (cost, error) { return t.handshakes(ctx) }},
			{apply, func() (cost, error) { return t.run(ctx, "apply") }},
			{again, func() (cost, error) { return t.run(ctx, "apply") }},
			{rotate, func() (cost, error) { return t.run(ctx, "rotate", "--grace", "0s") }},
			{down, func() (cost, error) { return t.run(ctx, "down") }},
		} {
			p, err := t.costs(step.do)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", step.name, err)
			}
			all[step.name] = append(all[step.name], p)
			progress("%d of %d: %s: %s", run+1, runs, step.name, p)
		}
	}
	return manyResults(n, all), nil
}

// costs is what something takes, of all.
func (t *star) costs(do func() (cost, error)) (p parts, err error) {
	before, err := t.used()
	if err != nil {
		return p, err
	}
	if p.cost, err = do(); err != nil {
		return p, err
	}
	after, err := t.used()
	p.far, p.devices = after[0]-before[0], after[1]-before[1]
	return p, err
}

// used is the CPU time so far that was used on the far sides, by ssh's servers and what they have run, and
// by all devices.
func (t *star) used() (seconds [2]float64, err error) {
	var mu sync.Mutex
	var errs []error
	add := func(i int, ticks func(int) (int, error), pid int) {
		n, err := ticks(pid)
		mu.Lock()
		defer mu.Unlock()
		seconds[i] += float64(n) * hosts.Tick.Seconds()
		errs = append(errs, err)
	}
	for _, v := range t.servers {
		add(0, hosts.Ticks, v.PID())
		add(0, hosts.ChildTicks, v.PID())
	}
	for _, d := range t.devices {
		add(1, hosts.Ticks, d.PID)
	}
	return seconds, errors.Join(errs...)
}
