package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/underlay"
)

// nextHops keeps what the senders know of next hops in step with the kernel's routes and neighbours.
type nextHops struct {
	*underlay.NextHops
	d      *Device
	events *nl.NetlinkSocket
}

// nextHopGroups are what next hops depend on.
var nextHopGroups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
}

func newNextHops(d *Device) (*nextHops, error) {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, nextHopGroups...)
	if err != nil {
		return nil, fmt.Errorf("watch routes and neighbours: %w", err)
	}
	if err := events.SetReceiveBufferSize(watchBuffer, true); err != nil {
		events.Close()
		return nil, fmt.Errorf("watch routes and neighbours: %w", err)
	}
	return &nextHops{underlay.NewNextHops(), d, events}, nil
}

// follow forgets what changes, until ctx ends.
func (h *nextHops) follow(ctx context.Context) error {
	stop := context.AfterFunc(ctx, h.events.Close)
	defer stop()
	for {
		msgs, _, err := h.events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // something was missed
			h.Forget(netip.Addr{})
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case err != nil:
			return fmt.Errorf("watch routes and neighbours: %w", err)
		}
		for i := range msgs {
			if !h.steers(&msgs[i]) {
				h.Forget(changedNeighbour(&msgs[i]))
			}
		}
	}
}

// steers reports whether a message is about a route into the TUN, which no packet of ours takes, and of
// which there may be many.
func (h *nextHops) steers(m *syscall.NetlinkMessage) bool {
	if m.Header.Type != unix.RTM_NEWROUTE && m.Header.Type != unix.RTM_DELROUTE {
		return false
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	return err == nil && slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == unix.RTA_TABLE && len(a.Value) == 4 && int(binary.NativeEndian.Uint32(a.Value)) == h.d.steering.table
	})
}

// changedNeighbour is the neighbour that a message is about; the zero address for other messages.
func changedNeighbour(m *syscall.NetlinkMessage) netip.Addr {
	if m.Header.Type != unix.RTM_NEWNEIGH && m.Header.Type != unix.RTM_DELNEIGH {
		return netip.Addr{}
	}
	n, err := netlink.NeighDeserialize(m.Data)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	return a.Unmap()
}

// lookUpPause keeps routes that change all the time from keeping a CPU busy.
const lookUpPause = time.Millisecond

// learn finds the next hops that senders miss, until ctx ends.
func (h *nextHops) learn(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case to := <-h.Missing():
			if h.Known(to) {
				continue
			}
			changes := h.Changes()
			h.Learn(to, h.lookUp(to), changes)
			time.Sleep(lookUpPause)
		}
	}
}

// lookUp asks the kernel for the next hop. Where that is none that a packet can be sent to, the kernel's
// IP layer has to see to it: until a neighbour answers, which is an event, or something else changes.
func (h *nextHops) lookUp(to netip.Addr) *underlay.NextHop {
	hop := &underlay.NextHop{Via: to}
	routes, err := h.d.nl.RouteGetWithOptions(net.IP(to.AsSlice()), h.d.steering.routeOptions())
	if err != nil || len(routes) != 1 {
		return hop
	}
	r := &routes[0]
	device := int(h.d.link.index.Load())
	if r.LinkIndex != device || r.Type != unix.RTN_UNICAST || r.Encap != nil || r.NewDst != nil {
		return hop
	}
	switch via, ok := netip.AddrFromSlice(r.Gw); {
	case ok:
		hop.Via = via.Unmap()
	case r.Via != nil: // a gateway of the other family
		return hop
	}
	family := netlink.FAMILY_V4
	if hop.Via.Is6() {
		family = netlink.FAMILY_V6
	}
	neighbours, err := h.d.nl.NeighList(device, family)
	if err != nil {
		return hop
	}
	const valid = unix.NUD_PERMANENT | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	for _, n := range neighbours {
		a, _ := netip.AddrFromSlice(n.IP)
		if a.Unmap() == hop.Via && n.State&valid != 0 && len(n.HardwareAddr) == len(hop.Address) {
			hop.Device, hop.MTU, hop.Address = device, h.mtu(r), [6]byte(n.HardwareAddr)
		}
	}
	return hop
}

// mtu is the longest packet that may leave by a route.
func (h *nextHops) mtu(r *netlink.Route) int {
	mtu := int(h.d.link.mtu.Load())
	if r.MTU > 0 {
		mtu = min(mtu, r.MTU)
	}
	return mtu
}
