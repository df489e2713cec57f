package accept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/remote"
)

// Link is a network device of a host, with what decides if it can be tried.
type Link struct {
	Name      string         `json:"name"`
	Driver    string         `json:"driver,omitempty"` // of the device on its bus
	Up        bool           `json:"up"`
	Addresses []netip.Prefix `json:"addresses"`
	// Management says that the connection by which this is asked comes in over the device, or over
	// one that sits on it.
	Management bool `json:"management"`
}

// linksQuestion carries how the far side sees the connection, which it cannot ask itself once it
// runs by sudo.
type linksQuestion struct {
	Client netip.Addr `json:"client"`
	Server netip.Addr `json:"server"`
}

// links lists the devices of this host that have addresses.
func links(_ context.Context, q linksQuestion, _ remote.Progress) ([]Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list the network devices: %w", err)
	}
	management, err := managementLinks(all, q)
	if err != nil {
		return nil, err
	}
	var found []Link
	for _, l := range all {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue
		}
		link := Link{Name: a.Name, Up: a.OperState == netlink.OperUp, Management: management[a.Index]}
		if target, err := os.Readlink("/sys/class/net/" + a.Name + "/device/driver"); err == nil {
			link.Driver = target[strings.LastIndexByte(target, '/')+1:]
		}
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addresses {
			ip, ok := netip.AddrFromSlice(addr.IP)
			if bits, _ := addr.Mask.Size(); ok && !ip.Unmap().IsLinkLocalUnicast() {
				link.Addresses = append(link.Addresses, netip.PrefixFrom(ip.Unmap(), bits))
			}
		}
		if link.Addresses != nil {
			found = append(found, link)
		}
	}
	return found, nil
}

// managementLinks are those the connection hangs on: the one that has the server's address, the
// one that leads to the client, and what both sit on. Without an ssh connection there are none.
func managementLinks(all []netlink.Link, q linksQuestion) (map[int]bool, error) {
	marked := make(map[int]bool)
	if !q.Client.IsValid() {
		return marked, nil
	}
	routes, err := netlink.RouteGet(q.Client.AsSlice())
	if err != nil {
		return nil, fmt.Errorf("find out which device the connection comes in by: %w", err)
	}
	for _, r := range routes {
		marked[r.LinkIndex] = true
	}
	for _, l := range all {
		addresses, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == q.Server.Unmap() {
				marked[l.Attrs().Index] = true
			}
		}
	}
	for again := true; again; { // below a VLAN, ports of a bond or bridge
		again = false
		for _, l := range all {
			a := l.Attrs()
			if marked[a.MasterIndex] && a.MasterIndex != 0 && !marked[a.Index] {
				marked[a.Index], again = true, true
			}
			// With a NetNsID the index is that of a device elsewhere, as of a veth's other end.
			if marked[a.Index] && a.ParentIndex != 0 && a.NetNsID < 0 && !marked[a.ParentIndex] {
				marked[a.ParentIndex], again = true, true
			}
		}
	}
	return marked, nil
}

// flapQuestion asks for a device to go down and come up again.
type flapQuestion struct {
	Device  string        `json:"device"`
	For     time.Duration `json:"for"`
	Session linksQuestion `json:"session"`
	// Anyway does it to the device the connection hangs on.
	Anyway bool `json:"anyway"`
}

// flapAnswer tells what the device did not get back by itself.
type flapAnswer struct {
	Restored []string `json:"restored"`
}

// carrierPatience is how long a link may take to come up; autonegotiation takes seconds.
const carrierPatience = 30 * time.Second

// flap sets a device down and up again. Whatever happens meanwhile, also if nobody is there any
// longer, it comes up; and routes and addresses that went with it are put back.
func flap(ctx context.Context, q flapQuestion, say remote.Progress) (answer flapAnswer, err error) {
	all, err := netlink.LinkList()
	if err != nil {
		return answer, err
	}
	link, err := netlink.LinkByName(q.Device)
	if err != nil {
		return answer, fmt.Errorf("%s: %w", q.Device, err)
	}
	management, err := managementLinks(all, q.Session)
	if err != nil {
		return answer, err
	}
	if management[link.Attrs().Index] && !q.Anyway {
		return answer, fmt.Errorf("%s carries the connection by which this is asked: it stays up", q.Device)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return answer, fmt.Errorf("list the addresses of %s: %w", q.Device, err)
	}
	routes, err := routesOf(link)
	if err != nil {
		return answer, err
	}
	say("down")
	if err := netlink.LinkSetDown(link); err != nil {
		return answer, fmt.Errorf("set %s down: %w", q.Device, err)
	}
	defer func() {
		up := setUp(link)
		restored, lost := restore(link, addresses, routes)
		answer.Restored = restored
		err = errors.Join(err, up, lost)
	}()
	select {
	case <-time.After(q.For):
	case <-ctx.Done():
		return answer, context.Cause(ctx)
	}
	say("up")
	return answer, nil
}

// setUp sets the device up, and waits until it carries packets.
func setUp(link netlink.Link) error {
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
	}
	for start := time.Now(); time.Since(start) < carrierPatience; time.Sleep(50 * time.Millisecond) {
		now, err := netlink.LinkByIndex(link.Attrs().Index)
		if err != nil {
			return err
		}
		if s := now.Attrs().OperState; s == netlink.OperUp || s == netlink.OperUnknown {
			return nil
		}
	}
	return fmt.Errorf("%s has no carrier after %s", link.Attrs().Name, carrierPatience)
}

// routesOf are the routes over a device in all tables that do not come with its addresses.
func routesOf(link netlink.Link) (routes []netlink.Route, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("list the routes over %s: %w", link.Attrs().Name, err)
		}
		for _, r := range all {
			if r.Protocol != unix.RTPROT_KERNEL && r.Type == unix.RTN_UNICAST {
				routes = append(routes, r)
			}
		}
	}
	return routes, nil
}

// restore puts back what has gone: IPv6 addresses, and routes.
func restore(link netlink.Link, addresses []netlink.Addr, routes []netlink.Route) (restored []string, err error) {
	now, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	have := make(map[string]bool)
	for _, a := range now {
		have[a.IPNet.String()] = true
	}
	var errs []error
	for _, a := range addresses {
		if have[a.IPNet.String()] || a.IP.IsLinkLocalUnicast() {
			continue
		}
		a.Flags |= unix.IFA_F_NODAD
		if err := netlink.AddrReplace(link, &a); err != nil {
			errs = append(errs, fmt.Errorf("put address %s back: %w", a.IPNet, err))
			continue
		}
		restored = append(restored, a.IPNet.String())
	}
	left, err := routesOf(link)
	if err != nil {
		return restored, errors.Join(append(errs, err)...)
	}
	has := make(map[string]bool)
	for _, r := range left {
		has[r.String()] = true
	}
	for _, r := range routes {
		if has[r.String()] {
			continue
		}
		r.Flags &^= unix.RTNH_F_LINKDOWN | unix.RTNH_F_DEAD
		if err := netlink.RouteReplace(&r); err != nil {
			errs = append(errs, fmt.Errorf("put route %s back: %w", r.Dst, err))
			continue
		}
		restored = append(restored, "route "+fmt.Sprint(r.Dst))
	}
	return restored, errors.Join(errs...)
}
