package guest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/test/lab"
)

// addresses of the NIC's ends.
var addresses = [2][]netip.Prefix{
	{netip.PrefixFrom(lab.A4, 24), netip.PrefixFrom(lab.A6, 64)},
	{netip.PrefixFrom(lab.B4, 24), netip.PrefixFrom(lab.B6, 64)},
}

// onNIC makes a lab whose hosts are joined by the lab's NIC, A at nic0 and B at nic1.
func onNIC(t *testing.T, device string) *lab.Lab {
	t.Helper()
	l := &lab.Lab{A: lab.NewHost(t, "A", device), B: lab.NewHost(t, "B", device), Device: device}
	// This thread's, not the process's: that is whatever its first thread has become.
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close() }) // after the others
	plugIn(t, l.A, "nic0", home)
	plugIn(t, l.B, "nic1", home)
	for i, h := range l.Hosts() {
		setUp(t, h, addresses[i]...)
	}
	return l
}

// plugIn gives a host one end of the NIC, under the name of the host's device, until the test's
// end.
func plugIn(t *testing.T, h *lab.Host, end string, home *os.File) {
	t.Helper()
	plugInAs(t, h, end, h.Device, home)
}

// plugInAs is plugIn under another name.
func plugInAs(t *testing.T, h *lab.Host, end, device string, home *os.File) {
	t.Helper()
	link, err := netlink.LinkByName(end)
	if err == nil {
		err = netlink.LinkSetNsFd(link, h.Fd())
	}
	if err != nil {
		t.Fatalf("%s: %v", end, err)
	}
	t.Cleanup(func() {
		if err := h.Do(func() error { return giveBack(device, end, home) }); err != nil {
			t.Errorf("give %s back: %v", end, err)
		}
	})
	inside(t, h, func() error {
		link, err := netlink.LinkByName(end)
		if err != nil {
			return err
		}
		return netlink.LinkSetName(link, device)
	})
}

// giveBack sends the NIC home under its own name before the namespace goes. A test may have taken
// its driver out.
func giveBack(device, end string, home *os.File) error {
	link, err := netlink.LinkByName(device)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetDown(link) },
		func() error { return netlink.LinkSetName(link, end) },
		func() error { return netlink.LinkSetNsFd(link, int(home.Fd())) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// inside does on the host what must not fail there.
func inside(t *testing.T, h *lab.Host, do func() error) {
	t.Helper()
	if err := h.Do(do); err != nil {
		t.Fatalf("host %s: %v", h.Name, err)
	}
}

// setUp sets the host's device up and gives it addresses.
func setUp(t *testing.T, h *lab.Host, addresses ...netip.Prefix) {
	t.Helper()
	inside(t, h, func() error {
		link, err := netlink.LinkByName(h.Device)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			addr := &netlink.Addr{
				IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())},
				Flags: unix.IFA_F_NODAD,
			}
			if err := netlink.AddrReplace(link, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	})
}

// statistics are the counters of the host's end, as ethtool -S shows them. They go on from test to
// test.
func statistics(t *testing.T, h *lab.Host) (counters map[string]uint64) {
	t.Helper()
	inside(t, h, func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		counters, err = e.Stats(h.Device)
		return err
	})
	return counters
}

// nicCount is what the NIC itself counted of offloaded packets, since its driver was loaded.
type nicCount struct{ sent, received uint64 }

func nicCounts(t *testing.T, l *lab.Lab) map[*lab.Host]nicCount {
	t.Helper()
	counts := make(map[*lab.Host]nicCount)
	for _, h := range l.Hosts() {
		c := statistics(t, h)
		counts[h] = nicCount{c["ipsec_tx_pkts"], c["ipsec_rx_pkts"]}
	}
	return counts
}

const parameters = "/sys/module/labnic/parameters/"

// setParameter changes a parameter of the NIC until the test's end: one value for all ends, two for
// those of each cable, or four.
func setParameter(t *testing.T, name, value string) {
	t.Helper()
	file := parameters + name
	old := read(t, file)
	set := func(value string) error { return os.WriteFile(file, []byte(value), 0) }
	if err := set(value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set(old); err != nil {
			t.Error(err)
		}
	})
}
