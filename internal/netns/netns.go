// Package netns makes network namespaces that exist only as long as the process, each with
// an OS thread of its own.
//
// A namespace has no name and no file: it goes when its thread, the processes started in it
// and the descriptors opened in it are gone, so that not even SIGKILL leaves anything behind.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrClosed is returned by Do after Close.
var ErrClosed = errors.New("network namespace is closed")

// NS is a network namespace and the thread that lives in it. Its methods are safe for
// concurrent use; functions given to Do run one after the other.
type NS struct {
	work chan func()
	quit chan struct{}
	file *os.File
}

// New makes an empty namespace with its loopback device up. It needs CAP_SYS_ADMIN.
func New() (*NS, error) {
	n := &NS{work: make(chan func()), quit: make(chan struct{})}
	ready := make(chan error)
	go n.live(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return n, nil
}

// live holds the thread. It never unlocks it: a thread that has changed its namespace
// must not serve other goroutines, and ends with this one.
func (n *NS) live(ready chan<- error) {
	runtime.LockOSThread()
	if err := n.enter(); err != nil {
		ready <- err
		return
	}
	ready <- nil
	for {
		select {
		case f := <-n.work:
			f()
		case <-n.quit:
			return
		}
	}
}

func (n *NS) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w (it takes root)", err)
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	n.file = f
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// Do runs f in the namespace and returns its error. Sockets that f opens stay there.
// f must not start goroutines that expect to be in the namespace.
func (n *NS) Do(f func() error) error {
	done := make(chan error, 1)
	select {
	case n.work <- func() { done <- f() }:
		return <-done
	case <-n.quit:
		return ErrClosed
	}
}

// Start starts cmd in the namespace. With cmd.SysProcAttr.Pdeathsig set, the process is
// signalled when the NS is closed or this process dies.
func (n *NS) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// Fd is a descriptor of the namespace, valid until Close.
func (n *NS) Fd() int { return int(n.file.Fd()) }

// Close ends the thread. The namespace goes when nothing else holds it.
func (n *NS) Close() error {
	close(n.quit)
	return n.file.Close()
}

// End is one end of a virtual cable.
type End struct {
	NS        *NS
	Name      string
	Addresses []netip.Prefix
}

// Cable joins two namespaces by a veth pair, sets the ends' addresses (IPv6 without
// duplicate address detection, which would hold them, and neighbour discovery, back for a
// second), sets them up and waits until they are.
func Cable(a, b End) error {
	err := a.NS.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: a.Name},
			PeerName:      b.Name,
			PeerNamespace: netlink.NsFd(b.NS.Fd()),
		})
	})
	if err != nil {
		return fmt.Errorf("add veth pair %s, %s: %w", a.Name, b.Name, err)
	}
	for _, e := range []End{a, b} {
		if err := e.NS.Do(func() error { return configure(e) }); err != nil {
			return fmt.Errorf("set up %s: %w", e.Name, err)
		}
	}
	for _, e := range []End{a, b} {
		if err := e.NS.Do(func() error { return await(e) }); err != nil {
			return err
		}
	}
	return nil
}

// await waits until the kernel has activated the device and takes its addresses for its own:
// before that it drops what is sent and received. For IPv6 a thread of the kernel's sees to that
// some time later.
func await(e End) error {
	const patience = 20 * time.Second
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		missing, err := notReady(e)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", e.Name, err)
		}
		if missing == "" {
			return nil
		}
		if time.Since(start) > patience {
			return fmt.Errorf("%s after %s", missing, patience)
		}
	}
}

// notReady says what is not there yet, "" if nothing.
func notReady(e End) (missing string, err error) {
	link, err := netlink.LinkByName(e.Name)
	if err != nil {
		return "", err
	}
	if state := link.Attrs().OperState; state != netlink.OperUp {
		return fmt.Sprintf("%s is %s", e.Name, state), nil
	}
	for _, p := range e.Addresses {
		routes, err := netlink.RouteGet(p.Addr().AsSlice())
		if err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL {
			return fmt.Sprintf("%s has not got %s", e.Name, p.Addr()), nil
		}
	}
	return "", nil
}

func configure(e End) error {
	link, err := netlink.LinkByName(e.Name)
	if err != nil {
		return err
	}
	noDAD := "/proc/sys/net/ipv6/conf/" + e.Name + "/accept_dad"
	if err := os.WriteFile(noDAD, []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
		return err
	}
	for _, p := range e.Addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return netlink.LinkSetUp(link)
}
