package probe_test

import (
	"context"
	"strings"
	"testing"

	"espalier/probe"
	"espalier/probe/probetest"
)

// routes has the default route of IPv4 by one device and that of IPv6 by another, one that is rejected and
// others that lead elsewhere.
const routes = `files:
  proc/net/route: |
    Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
    far0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
    DEVICE	00000000	010200C0	0003	0	0	0	00000000	0	0	0
    DEVICE	00000000	010200C0	0003	0	0	100	00000000	0	0	0
    no0	00000000	00000000	0201	0	0	0	00000000	0	0	0
  proc/net/ipv6_route: |
    20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001   far0
    00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003   gone0
    00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
`

// A host without a NIC that could offload is told what its ESP meets all the same: on the devices that
// default routes take.
func TestTopologyWithoutCandidate(t *testing.T) {
	for _, c := range []struct{ trap, device, id string }{
		{"trap/nft-drop-esp", "p4p1", "topology.firewall-esp"},
		{"trap/strict-rp-filter", "p4p1", "topology.rp-filter"},
		{"trap/disable-xfrm", "p4p1", "topology.disable-xfrm"},
	} {
		sys := probetest.Load(t, "distro/debian-12", "base", "nic/connectx-6", c.trap, strings.ReplaceAll(routes, "DEVICE", c.device))
		r, err := probe.Examine(context.Background(), sys, nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		answers := map[string]probe.Answer{}
		for _, l := range r.Layers {
			names = append(names, l.Name)
			if l.Name == "topology of "+c.device {
				each([]probe.Layer{l}, func(c probe.Check) { answers[c.ID] = c.Answer })
			}
		}
		if len(r.Devices) != 0 || r.Readiness != probe.NotReady || answers[c.id] != probe.No || len(answers) < 5 {
			t.Errorf("%s: %v, %v, %v", c.trap, r.Readiness, names, answers)
		}
		if got := strings.Join(names, ", "); !strings.Contains(got, "NIC, topology of p4p1, topology of gone0") || strings.Contains(got, "far0") || strings.Contains(got, "no0") {
			t.Errorf("%s", got)
		}
		// With a NIC that could, its own topology is enough.
		r, err = probe.Examine(context.Background(), probetest.Load(t, "distro/debian-12", "base", "nic/connectx-7", c.trap, strings.ReplaceAll(routes, "DEVICE", c.device)), nil)
		if err != nil || len(r.Devices) != 1 || strings.Contains(r.Layers[len(r.Layers)-1].Name, "topology") {
			t.Errorf("%v %+v", err, r.Layers)
		}
	}
}
