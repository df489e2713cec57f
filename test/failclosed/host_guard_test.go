package failclosed

import (
	"net/netip"
	"testing"

	"espalier/guard"
	"espalier/ipsec"
	"espalier/test/lab"
)

// The host's guard holds everything back that is in clear on the device's underlay, before there is a device and
// when it is killed, and stands in nobody's way while it runs.
func TestHostGuardBesideADevice(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "")
	checkControl(t, l)
	for _, h := range l.Hosts() {
		if err := h.Do(func() error { return guard.ApplyHost(hostRules(h == l.B, l.Device)) }); err != nil {
			t.Fatal(err)
		}
	}
	checkClosed(t, l, "before there is a device")
	startDevices(l)
	program(l, pairs(0))
	wantClosed(t, l, l.A, "with SAs", func() { checkWorks(t, l, "with SAs") })
	for _, h := range l.Hosts() {
		h.Kill()
		// Not even without the device's own guard.
		if err := h.Do(func() error { return guard.Release(h.Device) }); err != nil {
			t.Fatal(err)
		}
	}
	checkClosed(t, l, "killed, and its own guard removed")
}

// hostRules are for everything between the hosts' addresses.
func hostRules(atB bool, device string) guard.HostRules {
	var r guard.HostRules
	for _, ends := range [][2]netip.Addr{{lab.A4, lab.B4}, {lab.A6, lab.B6}} {
		if atB {
			ends[0], ends[1] = ends[1], ends[0]
		}
		r.Encaps = append(r.Encaps, guard.Encap{Local: netip.AddrPortFrom(ends[0], 4500), Remote: netip.AddrPortFrom(ends[1], 4500)})
		src, dst := netip.PrefixFrom(ends[0], ends[0].BitLen()), netip.PrefixFrom(ends[1], ends[1].BitLen())
		for _, d := range []ipsec.Direction{ipsec.Outbound, ipsec.Inbound, ipsec.Forward} {
			r.Policies = append(r.Policies, guard.HostPolicy{Device: device, Policy: ipsec.Policy{
				Direction: d, Selector: ipsec.Selector{Src: src, Dst: dst}, Processing: []ipsec.Processing{{Mode: ipsec.Transport, RequestID: 1}}}})
			if d == ipsec.Outbound {
				src, dst = dst, src
			}
		}
	}
	return r
}
