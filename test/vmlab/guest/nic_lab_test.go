package guest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/test/lab"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// nicLab is a lab on the NIC, and the way to its kernel's SADs and SPDs.
type nicLab struct {
	*lab.Lab
	kernel map[*lab.Host]*client.Client
}

// newNICLab makes a lab on the NIC whose hosts know each other's hardware address: what they count
// is not mixed with looking for it.
func newNICLab(t *testing.T, device string) *nicLab {
	t.Helper()
	l := &nicLab{onNIC(t, device), make(map[*lab.Host]*client.Client)}
	for _, h := range l.Hosts() {
		l.kernel[h] = kernelOf(t, h)
	}
	l.introduce(t)
	return l
}

// introduce tells each host the other's hardware address.
func (l *nicLab) introduce(t *testing.T) {
	t.Helper()
	var links [2]netlink.Link
	for i, h := range l.Hosts() {
		inside(t, h, func() (err error) {
			links[i], err = netlink.LinkByName(l.Device)
			return err
		})
	}
	peers := [2][]netip.Addr{{lab.B4, lab.B6}, {lab.A4, lab.A6}}
	for i, h := range l.Hosts() {
		inside(t, h, func() error {
			for _, peer := range peers[i] {
				n := &netlink.Neigh{
					LinkIndex: links[i].Attrs().Index, IP: peer.AsSlice(),
					HardwareAddr: links[1-i].Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
				}
				if err := netlink.NeighSet(n); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// neighbourOn tells h, of whose devices it is behind one, of an address of another host's device.
func (l *nicLab) neighbourOn(t *testing.T, h *lab.Host, device string, addr netip.Addr, other *lab.Host, theirs string) {
	t.Helper()
	var mac net.HardwareAddr
	inside(t, other, func() error {
		link, err := netlink.LinkByName(theirs)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	h.Must("ip", "neighbour", "replace", addr.String(), "lladdr", mac.String(), "dev", device)
}

// program installs SAs and policies on both hosts.
func (l *nicLab) program(t *testing.T, p lab.Pair) {
	t.Helper()
	for _, h := range l.Hosts() {
		l.apply(t, h, l.Script(h, p))
	}
}

func (l *nicLab) apply(t *testing.T, h *lab.Host, script string) {
	t.Helper()
	if err := lab.Apply(l.kernel[h], h.NS, script); err != nil {
		t.Fatalf("host %s: %v\n%s", h.Name, err, script)
	}
}

// flush takes out the SAs and policies of both hosts.
func (l *nicLab) flush(t *testing.T) {
	t.Helper()
	for _, h := range l.Hosts() {
		l.apply(t, h, "state flush\npolicy flush\n")
	}
}

// state reads an SA back.
func (l *nicLab) state(t *testing.T, h *lab.Host, sa lab.SA) *xfrm.State {
	t.Helper()
	id := sa.ID()
	s, err := l.kernel[h].GetState(context.Background(), id)
	if err == nil && s.Replay == nil {
		err = fmt.Errorf("no numbers")
	}
	if err != nil {
		t.Fatalf("host %s: %s: %v", h.Name, id, err)
	}
	return s
}

// sas are those of a host's kernel.
func (l *nicLab) sas(t *testing.T, h *lab.Host) (list []*xfrm.State) {
	t.Helper()
	for sa, err := range l.kernel[h].States(context.Background(), xfrm.StateFilter{Proto: unix.IPPROTO_ESP}) {
		if err != nil {
			t.Fatal(err)
		}
		sa.WipeKeys()
		list = append(list, sa)
	}
	return list
}

// wantOffloaded fails where one of the SAs is read back as software.
func (l *nicLab) wantOffloaded(t *testing.T, sas [2]lab.SA) {
	t.Helper()
	for _, h := range l.Hosts() {
		for _, sa := range sas {
			if l.state(t, h, sa).Offload == nil {
				t.Errorf("host %s: %#x is in software", h.Name, sa.SPI)
			}
		}
	}
}

// drops are the counters of /proc/net/xfrm_stat that are not zero: of the whole test.
func (l *nicLab) drops(t *testing.T, h *lab.Host) map[string]uint64 {
	t.Helper()
	found := make(map[string]uint64)
	inside(t, h, func() error {
		drops, err := l.kernel[h].Drops(context.Background())
		for _, d := range drops {
			if d.Packets > 0 {
				found[d.Counter] = d.Packets
			}
		}
		return err
	})
	return found
}
