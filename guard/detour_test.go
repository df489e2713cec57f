package guard

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// TestHostGuardDetours: ssh between two hosts passes although all between their networks is protected, and nothing
// else does, whichever of them the server is on.
func TestHostGuardDetours(t *testing.T) {
	r := newRouter(t)
	const syn, ack = 0x02, 0x10
	tcp := func(src, dst uint16, flags byte) []byte {
		return append(ports(src, dst)[:4], 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0)
	}
	policies := forHost("", bothWays(ipsec.Protect, 20, sel("10.1.0.0/16", "10.2.0.0/16", 0, anyPort, anyPort)),
		bothWays(ipsec.Protect, 20, sel("2001:db8:1::/48", "2001:db8:2::/48", 0, anyPort, anyPort)),
		bothWays(ipsec.Bypass, 10, sel("10.1.0.0/16", "10.2.0.0/16", 252, anyPort, anyPort)))
	for name, lan := range map[string][2]string{"IPv4": {"10.1.0.9", "10.2.0.9"}, "IPv6": {"2001:db8:1::9", "2001:db8:2::9"}} {
		here, there := netip.MustParseAddr(lan[0]), netip.MustParseAddr(lan[1])
		for _, serves := range []bool{true, false} {
			rules := HostRules{Policies: policies, Detours: []Detour{{Local: here, Remote: there, Port: 22, Serves: serves}}}
			if err := ApplyHost(rules); err != nil {
				t.Fatal(err)
			}
			if _, whole, err := HostLoaded(rules); err != nil || !whole {
				t.Errorf("%s, serves %v: it is not read back: %v", name, serves, err)
			}
			// To the server and back, whichever way that is.
			asks := func(payload []byte) packet {
				return packet{src: lan[1], dst: lan[0], proto: unix.IPPROTO_TCP, payload: payload}
			}
			answers := func(payload []byte) packet {
				return packet{src: lan[0], dst: lan[1], proto: unix.IPPROTO_TCP, payload: payload}
			}
			ask, answer := [2]*station{r.wan, r.lan}, [2]*station{r.lan, r.wan}
			if !serves {
				asks, answers, ask, answer = answers, asks, answer, ask
			}
			fragment := asks(tcp(40000, 22, ack))
			fragment.fragOffset = 64
			want := []bool{true, true, false, false, false, here.Is6()}
			for i, got := range r.cross(ask[0], ask[1], asks(tcp(40000, 22, syn)), asks(tcp(40000, 22, ack)), asks(tcp(40000, 23, syn)), asks(tcp(22, 40000, ack)),
				packet{src: asks(nil).src, dst: asks(nil).dst, proto: unix.IPPROTO_UDP, payload: ports(40000, 22)}, fragment) {
				if got != want[i] {
					t.Errorf("%s, serves %v: to the server, %d: passed %v", name, serves, i, got)
				}
			}
			want = []bool{true, true, false, false, false}
			for i, got := range r.cross(answer[0], answer[1], answers(tcp(22, 40000, syn|ack)), answers(tcp(22, 40000, ack)), answers(tcp(22, 40000, syn)),
				answers(tcp(40000, 22, ack)), answers(tcp(23, 40000, ack))) {
				if got != want[i] {
					t.Errorf("%s, serves %v: from the server, %d: passed %v", name, serves, i, got)
				}
			}
		}
	}
	for _, bad := range []Detour{{Local: netip.MustParseAddr("10.1.0.9"), Remote: netip.MustParseAddr("10.2.0.9")},
		{Local: netip.MustParseAddr("10.1.0.9"), Remote: netip.MustParseAddr("::1"), Port: 22}, {Port: 22}} {
		if err := ApplyHost(HostRules{Policies: policies, Detours: []Detour{bad}}); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
