package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"espalier/test/lab"
)

// onNIC makes a lab whose hosts are joined by the lab's NIC, one end each, instead of a cable.
func onNIC(t *testing.T, device string) *lab.Lab {
	t.Helper()
	l := lab.New(t, device)
	l.A.Must("ip", "link", "del", device)
	// This thread's, not the process's: that is whatever its first thread has become.
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close() }) // after the others
	for i, h := range l.Hosts() {
		end := fmt.Sprintf("nic%d", i)
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
		h.Must("ip", "link", "set", end, "name", device)
		for _, addr := range [][]string{{lab.A4.String() + "/24", lab.A6.String() + "/64"}, {lab.B4.String() + "/24", lab.B6.String() + "/64"}}[i] {
			h.Must("ip", "addr", "add", addr, "dev", device, "nodad")
		}
		h.Must("ip", "link", "set", device, "up")
	}
	return l
}

// giveBack sends the NIC home under its own name before the namespace goes.
func giveBack(device, end string, home *os.File) error {
	link, err := netlink.LinkByName(device)
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

// nicCount is what the NIC itself counted of offloaded packets, since its driver was loaded.
type nicCount struct{ sent, received uint64 }

func nicCounts(t *testing.T, l *lab.Lab) map[*lab.Host]nicCount {
	t.Helper()
	counts := make(map[*lab.Host]nicCount)
	for _, h := range l.Hosts() {
		err := h.Do(func() error {
			e, err := ethtool.NewEthtool()
			if err != nil {
				return err
			}
			defer e.Close()
			stats, err := e.Stats(l.Device)
			counts[h] = nicCount{stats["ipsec_tx_pkts"], stats["ipsec_rx_pkts"]}
			return err
		})
		if err != nil {
			t.Fatalf("host %s: statistics of %s: %v", h.Name, l.Device, err)
		}
	}
	return counts
}

// The vendor's commands on a NIC that offloads: they say so when read back, traffic passes, and
// the NIC has encrypted every packet that the SAs have numbered.
func TestVendorOffloaded(t *testing.T) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			l := onNIC(t, "enp4s0")
			before := nicCounts(t, l)
			p.run(t, l.A, read(t, vendor+"first-server.xfrm.sh"))
			p.run(t, l.B, corrected(t, read(t, vendor+"second-server.xfrm.sh")))
			for _, h := range l.Hosts() {
				if list := h.Must("ip", "xfrm", "state", "list"); strings.Count(list, "crypto offload parameters: dev enp4s0") != 2 {
					t.Errorf("host %s: not both SAs are offloaded:\n%s", h.Name, list)
				}
			}
			if !l.A.Ping(lab.B4, 2) || !l.B.Ping(lab.A4, 2) {
				t.Error("ping failed")
			}
			l.MustExchange(t, lab.A4, lab.B4, size)
			after := nicCounts(t, l)
			for _, d := range []struct {
				from, to *lab.Host
				spi      string
			}{{l.A, l.B, firstToSecond}, {l.B, l.A, secondToFirst}} {
				sent := after[d.from].sent - before[d.from].sent
				received := after[d.to].received - before[d.to].received
				numbered := fmt.Sprintf("oseq 0x%x,", sent)
				if list := d.from.Must("ip", "xfrm", "state", "list", "spi", d.spi); sent < 4 || !strings.Contains(list, numbered) {
					t.Errorf("host %s: the NIC encrypted %d packets; the SA says\n%s", d.from.Name, sent, list)
				}
				if received != sent {
					t.Errorf("%d packets were encrypted by %s, %d decrypted by %s", sent, d.from.Name, received, d.to.Name)
				}
			}
			for _, h := range l.Hosts() {
				if drops := counters(t, h); len(drops) != 0 {
					t.Errorf("host %s dropped %v", h.Name, drops)
				}
			}
		})
	}
	if !t.Failed() {
		Tell("The NIC vendor's commands", "on a NIC that offloads", "offloaded; the NIC's counts are the SAs' numbers, nothing is dropped")
	}
}
