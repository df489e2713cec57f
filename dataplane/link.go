package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/underlay"
)

// maxOverhead is what ESP adds to a packet at most: an outer IPv6 header, UDP, ESP header,
// IV, padding to 4 bytes, pad length and next header, 128-bit ICV.
const maxOverhead = 40 + 8 + 8 + 8 + 3 + 2 + 16

// minTUNMTU is IPv6's minimum link MTU (RFC 8200 §5): below it the kernel takes IPv6 off
// the device. Packets that do not fit the underlay then are sent as outer fragments.
const minTUNMTU = 1280

// underlayLink is what the packet path needs to know of the underlay device. It is read by
// every queue and kept up to date by watch.
type underlayLink struct {
	name  string
	index atomic.Int64 // another one after the device was removed and made anew
	mtu   atomic.Int64
}

// tunMTU leaves room for ESP in the underlay's MTU: for the most that any SA adds, not for what those at
// hand add. It would change with each of them, and hosts follow a device's MTU slowly; what another SA
// leaves unused is less than 60 bytes. Paths that are narrower than the underlay see pmtu.go.
func tunMTU(underlay int) int { return max(underlay-maxOverhead, minTUNMTU) }

// locals are this host's addresses: packets for them are delivered (in policies), others
// are forwarded (fwd policies).
type locals struct {
	set     atomic.Pointer[map[netip.Addr]struct{}]
	changes atomic.Uint64
}

func (l *locals) has(a netip.Addr) bool {
	if a.IsMulticast() || a == limitedBroadcast {
		return true
	}
	_, ok := (*l.set.Load())[a]
	return ok
}

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func (l *locals) read(nl *netlink.Handle) error {
	addrs, err := nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	set := make(map[netip.Addr]struct{}, 2*len(addrs))
	for _, a := range addrs {
		for _, ip := range [][]byte{a.IP, a.Broadcast} {
			if addr, ok := netip.AddrFromSlice(ip); ok {
				set[addr.Unmap()] = struct{}{}
			}
		}
	}
	l.replace(set)
	return nil
}

func (l *locals) replace(set map[netip.Addr]struct{}) {
	l.set.Store(&set)
	l.changes.Add(1)
}

// watcher receives address and link changes of the namespace it was opened in.
type watcher struct {
	links chan netlink.LinkUpdate
	addrs chan netlink.AddrUpdate
	done  chan struct{}

	rules   *nl.NetlinkSocket
	removed chan struct{} // a routing rule was removed
}

// watchBuffer holds some thousands of changes at once, so that a burst does not overrun it.
const watchBuffer = 1 << 20

func newWatcher() (*watcher, error) {
	w := &watcher{
		links: make(chan netlink.LinkUpdate, 64), addrs: make(chan netlink.AddrUpdate, 64), done: make(chan struct{}),
		removed: make(chan struct{}, 1),
	}
	var err error
	if w.rules, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE); err != nil {
		return nil, fmt.Errorf("watch routing rules: %w", err)
	}
	if err := netlink.LinkSubscribeWithOptions(w.links, w.done, netlink.LinkSubscribeOptions{ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true}); err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(w.addrs, w.done, netlink.AddrSubscribeOptions{ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true}); err != nil {
		close(w.done)
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	return w, nil
}

// followRules tells watch of routing rules that somebody removes, as network managers do with
// those they do not know.
func (w *watcher) followRules(ctx context.Context) error {
	stop := context.AfterFunc(ctx, w.rules.Close)
	defer stop()
	for {
		msgs, _, err := w.rules.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch routing rules: %w", err)
		}
		if err == nil && !slices.ContainsFunc(msgs, func(m syscall.NetlinkMessage) bool { return m.Header.Type == unix.RTM_DELRULE }) {
			continue
		}
		select {
		case w.removed <- struct{}{}:
		default: // it has not got round to the last one
		}
	}
}

// watch follows the underlay's MTU and the host's addresses, and puts steering routes back
// that went with an address, the underlay or the TUN.
func (d *Device) watch(ctx context.Context, w *watcher) error {
	defer close(w.done)
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-w.links:
			if !ok {
				return fmt.Errorf("watch links: the netlink socket closed")
			}
			if !d.linkChanged(&u) {
				continue
			}
		case <-w.removed:
		case _, ok := <-w.addrs:
			if !ok {
				return fmt.Errorf("watch addresses: the netlink socket closed")
			}
			if err := d.locals.read(d.nl); err != nil {
				d.log.Warn("addresses changed", "err", err)
			}
		}
		if err := d.steering.sync(); err != nil {
			d.log.Warn("put steering routes back", "err", err)
		}
	}
}

// linkChanged follows the TUN and the underlay, and reports whether routes may have gone.
func (d *Device) linkChanged(u *netlink.LinkUpdate) bool {
	attrs := u.Attrs()
	switch {
	case attrs.Index == d.tun.Index():
		return attrs.RawFlags&unix.IFF_UP != 0 // no routes until it is up again
	case attrs.Name != d.link.name:
		return false
	case u.Header.Type == unix.RTM_DELLINK:
		d.log.Error("the underlay device is gone: nothing is sent until there is one of its name again", "device", d.link.name)
		return false
	case d.link.index.Swap(int64(attrs.Index)) != int64(attrs.Index):
		d.adoptUnderlay()
	}
	d.followMTU(attrs.MTU)
	return true
}

// adoptUnderlay closes the guard on a device that was made anew, as a driver does when it is
// loaded again.
func (d *Device) adoptUnderlay() {
	d.log.Warn("the underlay device is back", "device", d.link.name)
	d.control.Lock()
	defer d.control.Unlock()
	if err := errors.Join(d.guard.SetEncaps(d.encapsulations()), d.filter.loosen(), d.openTap()); err != nil {
		d.log.Error("set the new underlay device up", "device", d.link.name, "err", err)
	}
}

func (d *Device) followMTU(mtu int) {
	if mtu == 0 || int64(mtu) == d.link.mtu.Swap(int64(mtu)) {
		return
	}
	d.followLink()
	tun, err := d.nl.LinkByIndex(d.tun.Index())
	if err == nil {
		err = d.fitTUN(tun)
	}
	if err != nil {
		d.log.Warn("the underlay's MTU changed", "mtu", mtu, "err", err)
	}
	if !d.tap.fits(mtu) {
		d.control.Lock()
		defer d.control.Unlock()
		if err := d.openTap(); err != nil {
			d.log.Error("give ESP back to the raw sockets", "err", err)
		}
	}
}

// fitTUN sets the TUN's MTU, and the most segments that the kernel hands over in one frame: as many as
// leave in one send.
func (d *Device) fitTUN(tun netlink.Link) error {
	mtu := int(d.link.mtu.Load())
	if err := d.nl.LinkSetMTU(tun, tunMTU(mtu)); err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", d.tun.Name(), tunMTU(mtu), err)
	}
	segments := underlay.MaxSegments(mtu)
	if err := d.nl.LinkSetGSOMaxSegs(tun, segments); err != nil {
		return fmt.Errorf("limit the segments of %s to %d: %w", d.tun.Name(), segments, err)
	}
	return nil
}
