package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	index int
	mtu   atomic.Int64
}

// tunMTU leaves room for ESP in the underlay's MTU.
func tunMTU(underlay int) int { return max(underlay-maxOverhead, minTUNMTU) }

// locals are this host's addresses: packets for them are delivered (in policies), others
// are forwarded (fwd policies).
type locals struct {
	set atomic.Pointer[map[netip.Addr]struct{}]
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
	l.set.Store(&set)
	return nil
}

// watcher receives address and link changes of the namespace it was opened in.
type watcher struct {
	links chan netlink.LinkUpdate
	addrs chan netlink.AddrUpdate
	done  chan struct{}
}

// watchBuffer holds some thousands of changes at once, so that a burst does not overrun it.
const watchBuffer = 1 << 20

func newWatcher() (*watcher, error) {
	w := &watcher{links: make(chan netlink.LinkUpdate, 64), addrs: make(chan netlink.AddrUpdate, 64), done: make(chan struct{})}
	if err := netlink.LinkSubscribeWithOptions(w.links, w.done, netlink.LinkSubscribeOptions{ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true}); err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(w.addrs, w.done, netlink.AddrSubscribeOptions{ReceiveBufferSize: watchBuffer, ReceiveBufferForceSize: true}); err != nil {
		close(w.done)
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	return w, nil
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
			switch int(u.Index) {
			case d.tun.Index():
				if u.Attrs().RawFlags&unix.IFF_UP == 0 {
					continue // no routes until it is up again
				}
			case d.link.index:
				if u.Header.Type == unix.RTM_DELLINK {
					return fmt.Errorf("device %s is gone", d.link.name)
				}
				d.followMTU(u.Attrs().MTU)
			default:
				continue
			}
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

func (d *Device) followMTU(mtu int) {
	if mtu == 0 || int64(mtu) == d.link.mtu.Swap(int64(mtu)) {
		return
	}
	tun, err := d.nl.LinkByIndex(d.tun.Index())
	if err == nil {
		err = d.nl.LinkSetMTU(tun, tunMTU(mtu))
	}
	if err != nil {
		d.log.Warn("set the TUN's MTU", "mtu", tunMTU(mtu), "err", err)
	}
}
