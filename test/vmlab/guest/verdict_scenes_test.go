package guest

import (
	"strings"
	"testing"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"espalier/test/lab"
)

// scenes are all there are with the NIC between the hosts.
func scenes() []scene {
	return []scene{
		{name: "honest, transport", set: offloadedPairs(pair4, pair6), claims: []claim{
			sending(0x1000, theNIC, "HARDWARE").called("IPv4, sending"), receiving(0x1000, theNIC, "HARDWARE").called("IPv4, receiving"),
			sending(0x2000, theNIC, "HARDWARE").called("IPv6, sending"), receiving(0x2000, theNIC, "HARDWARE").called("IPv6, receiving"),
		}},
		{name: "honest, tunnel", set: offloadedPairs(lab.Pair{SPI: 0x1000, Tunnel: true}, lab.Pair{SPI: 0x2000, V6: true, Tunnel: true}), claims: []claim{
			sending(0x1000, theNIC, "HARDWARE").called("IPv4, sending"), receiving(0x1000, theNIC, "HARDWARE").called("IPv4, receiving"),
			sending(0x2000, theNIC, "HARDWARE").called("IPv6, sending"), receiving(0x2000, theNIC, "HARDWARE").called("IPv6, receiving"),
		}},
		{name: "honest, ESN", set: offloadedPairs(lab.Pair{SPI: 0x1000, ESN: true}), claims: []claim{
			sending(0x1000, theNIC, "HARDWARE"), receiving(0x1000, theNIC, "HARDWARE"),
		}},
		{name: "honest, as a release sees the lab's driver", release: true, set: offloadedPairs(pair4), claims: []claim{
			sending(0x1000, theNIC, "EMULATED"), receiving(0x1000, theNIC, "EMULATED"),
		}},
		{name: "an SA in software beside an offloaded one", set: offloadedPairs(pair4, software6), claims: []claim{
			sending(0x1000, theNIC, "HARDWARE").called("the offloaded one"), sending(0x2000, theKernel, "SOFTWARE").called("the other"),
		}},
		{name: "an idle SA beside a busy one", set: func(t *testing.T, l *nicLab) []stream {
			l.program(t, pair4)
			l.program(t, pair6)
			return ways(false)
		}, claims: []claim{
			sending(0x1000, theNIC, "HARDWARE").called("the busy one"), sending(0x2000, noPackets, "IDLE").called("the idle one"),
		}},

		{name: "the NIC does not take the SA (EOPNOTSUPP)", set: faulty("eopnotsupp", pair4), claims: []claim{
			sending(0x1000, theKernel, "SOFTWARE"), receiving(0x1000, theKernel, "SOFTWARE"),
		}},
		{name: "the NIC refuses the SA (EINVAL)", set: refusing("einval"), claims: []claim{
			{spi: 0x1000, out: true, truth: noSA, finding: "policy-without-sa"},
		}},
		{name: "the NIC refuses the SA without a word", set: refusing("mute"), claims: []claim{
			{spi: 0x1000, out: true, truth: noSA, finding: "policy-without-sa"},
		}},

		{name: "lying NICs", set: faulty("lying", pair4), claims: []claim{
			sending(0x1000, nobody, "UNKNOWN"), receiving(0x1000, unchecked, "UNKNOWN"),
		}},
		{name: "a lying NIC, to an honest one", set: faulty("lying,none", pair4), claims: []claim{
			sending(0x1000, nobody, "UNKNOWN"), sending(0x1000, notForUs, "UNKNOWN").called("the receiver").received().atB(),
		}},
		{name: "NICs that forge their counters", set: faulty("forging", pair4), claims: []claim{
			sending(0x1000, nobody, "HARDWARE"), receiving(0x1000, unchecked, "HARDWARE"),
		}},
		{name: "a NIC that forges, to software", set: toSoftware("forging,none"), claims: []claim{
			sending(0x1000, nobody, "HARDWARE"), sending(0x1000, theKernel, "UNKNOWN").called("the receiver, where every ICV is wrong").received().atB(),
		}},
		{name: "a NIC whose ICVs are wrong", set: faulty("corrupt,none", pair4), claims: []claim{
			sending(0x1000, theNIC, "HARDWARE"), sending(0x1000, notForUs, "UNKNOWN").called("the receiver").received().atB(),
		}},
		{name: "a NIC that drops", set: faulty("drop,none", pair4), claims: []claim{
			sending(0x1000, lostByNIC, "UNKNOWN"),
		}},
		{name: "a NIC that tells no counters", set: func(t *testing.T, l *nicLab) []stream {
			setParameter(t, "counters", "0")
			return offloadedPairs(pair4)(t, l)
		}, claims: []claim{
			sending(0x1000, theNIC, "UNKNOWN"), receiving(0x1000, theNIC, "UNKNOWN"),
		}},

		{name: "esp-hw-offload off after the add", set: func(t *testing.T, l *nicLab) []stream {
			streams := offloadedPairs(pair4)(t, l)
			l.espOff(t, l.A)
			return streams
		}, claims: []claim{
			sending(0x1000, theKernel, "SOFTWARE"), receiving(0x1000, theNIC, "HARDWARE"),
		}},
		{name: "IPv4 options in every second packet", set: func(t *testing.T, l *nicLab) []stream {
			l.program(t, pair4)
			return []stream{{}, {options: true}}
		}, claims: []claim{
			sending(0x1000, both, "MIXED"), sending(0x1000, both, "MIXED").called("the receiver").received().atB(),
		}},
		{name: "every second packet larger than the link takes", set: func(t *testing.T, l *nicLab) []stream {
			l.program(t, pair4)
			return []stream{{}, {big: true}}
		}, claims: []claim{
			sending(0x1000, both, "MIXED"), sending(0x1000, both, "MIXED").called("the receiver").received().atB(),
		}},
		{name: "IPv4 options in every packet", set: optionsOnly, claims: []claim{
			sending(0x1000, theKernel, "UNKNOWN"),
		}},
		{name: "IPv4 options in every packet, with --probe", set: optionsOnly, probe: true, claims: []claim{
			sending(0x1000, theKernel, "SOFTWARE"),
		}},
		{name: "lying NICs, with --probe", set: faulty("lying", pair4), probe: true, claims: []claim{
			sending(0x1000, nobody, "UNKNOWN"),
		}},
		{name: "two offloaded SAs, of which one falls back", set: oneOfTwo, claims: []claim{
			sending(0x1000, theKernel, "UNKNOWN").called("the one"), sending(0x2000, theNIC, "UNKNOWN").called("the other"),
		}},
		{name: "two offloaded SAs, of which one falls back, with --probe", set: oneOfTwo, probe: true, claims: []claim{
			sending(0x1000, theKernel, "SOFTWARE").called("the one"), sending(0x2000, theNIC, "HARDWARE").called("the other"),
		}},

		{name: "the peer's CPU decrypts on the same machine, with --probe", set: toSoftware("none"), probe: true, claims: []claim{
			sending(0x1000, theNIC, "HARDWARE"),
		}},

		{name: "the route leads through another device", set: elsewhere2nd, tap: "other0", claims: []claim{
			sending(0x1000, theKernel, "SOFTWARE"),
		}},
		{name: "a VLAN on the NIC, the SA is the NIC's", set: onVLAN("p4p1"), claims: []claim{
			sending(0x1000, theKernel, "SOFTWARE"),
		}},
		{name: "a VLAN on the NIC, the SA is the VLAN's", set: onVLAN("vlan7"), claims: []claim{
			sending(0x1000, theKernel, "SOFTWARE"),
		}},
		{name: "the cable is out", set: func(t *testing.T, l *nicLab) []stream {
			t.Cleanup(func() { l.awaitLinks(t, netlink.OperUp) }) // last
			streams := offloadedPairs(pair4)(t, l)
			setParameter(t, "link", "0,1")
			l.awaitLinks(t, netlink.OperDown)
			return streams
		}, claims: []claim{
			sending(0x1000, neverLeft, "UNKNOWN"),
		}},
		{name: "the link went down and came back", set: func(t *testing.T, l *nicLab) []stream {
			l.program(t, pair4)
			l.A.Must("ip", "link", "set", l.Device, "down")
			setUp(t, l.A, addresses[0]...)
			l.introduce(t)
			l.awaitLinks(t, netlink.OperUp)
			return ways(false)
		}, claims: []claim{
			{spi: 0x1000, out: true, truth: noSA, finding: "policy-without-sa"},
		}},
		{name: "the SA is replaced meanwhile", set: offloadedPairs(pair4), meanwhile: func(t *testing.T, l *nicLab) {
			l.apply(t, l.A, "ip xfrm state delete src 192.168.1.64 dst 192.168.1.65 proto esp spi 0x1000\n"+l.Outbound(l.A, pair4))
		}, claims: []claim{
			sending(0x1000, theNIC, "HARDWARE"),
		}},
		{name: "a policy that asks for packet offload, which 6.1 ignores and later kernels refuse", set: packetPolicy, claims: []claim{
			{spi: 0x1000, out: true, truth: theKernel, verdict: "SOFTWARE"},
		}},
	}
}

// received turns a claim about the sender's SA into one about the receiver's.
func (c claim) received() claim { c.out = false; return c }

// offloadedPairs programs both hosts, and both send to the other by each pair.
func offloadedPairs(pairs ...lab.Pair) func(*testing.T, *nicLab) []stream {
	return func(t *testing.T, l *nicLab) (streams []stream) {
		t.Helper()
		for _, p := range pairs {
			l.program(t, p)
			streams = append(streams, ways(p.V6)...)
		}
		return streams
	}
}

// faulty has the NIC's ends fail in some way from the beginning.
func faulty(fault string, p lab.Pair) func(*testing.T, *nicLab) []stream {
	return func(t *testing.T, l *nicLab) []stream {
		t.Helper()
		setParameter(t, "fault", fault)
		return offloadedPairs(p)(t, l)
	}
}

// refusing has only policies come in: no SA is taken.
func refusing(fault string) func(*testing.T, *nicLab) []stream {
	return func(t *testing.T, l *nicLab) []stream {
		t.Helper()
		setParameter(t, "fault", fault)
		if err := lab.Apply(l.kernel[l.A], l.A.NS, l.States(l.A, pair4)); err == nil {
			t.Error("the SA was accepted")
		}
		l.apply(t, l.A, l.Policies(l.A, pair4))
		return ways(false)
	}
}

// toSoftware has A's SA offloaded, and B's not.
func toSoftware(fault string) func(*testing.T, *nicLab) []stream {
	return func(t *testing.T, l *nicLab) []stream {
		t.Helper()
		setParameter(t, "fault", fault)
		l.apply(t, l.A, l.Script(l.A, pair4))
		in := pair4
		in.Software = true
		l.apply(t, l.B, l.Script(l.B, in))
		return []stream{{}}
	}
}

func optionsOnly(t *testing.T, l *nicLab) []stream {
	t.Helper()
	l.program(t, pair4)
	return []stream{{options: true}}
}

// oneOfTwo has two pairs offloaded, and the packets of one left to the kernel.
func oneOfTwo(t *testing.T, l *nicLab) []stream {
	t.Helper()
	l.program(t, pair4)
	l.program(t, pair6)
	return []stream{{options: true}, {v6: true}}
}

// espOff is ethtool -K esp-hw-offload off, on a NIC where it can be switched, until the test's end.
func (l *nicLab) espOff(t *testing.T, h *lab.Host) {
	t.Helper()
	setParameter(t, "switchable", "1") // and at the end on for good
	inside(t, h, func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return e.Change(l.Device, map[string]bool{"esp-hw-offload": false, "esp-tx-csum-hw-offload": false})
	})
}

// awaitLinks waits until the kernel has noticed that the cable is in, or out.
func (l *nicLab) awaitLinks(t *testing.T, state netlink.LinkOperState) {
	t.Helper()
	for _, h := range l.Hosts() {
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			var now netlink.LinkOperState
			inside(t, h, func() error {
				link, err := netlink.LinkByName(l.Device)
				if err == nil {
					now = link.Attrs().OperState
				}
				return err
			})
			if now == state {
				break
			}
			if time.Since(start) > untilThere {
				t.Fatalf("host %s: the link is %s, and never %s", h.Name, now, state)
			}
		}
	}
}

// elsewhere2nd gives A a second way to B, and a route by it.
func elsewhere2nd(t *testing.T, l *nicLab) []stream {
	t.Helper()
	streams := offloadedPairs(pair4)(t, l)[:1]
	l.A.Must("ip", "link", "add", "other0", "type", "dummy")
	t.Cleanup(func() { l.A.Must("ip", "link", "del", "other0") })
	l.A.Must("ip", "link", "set", "other0", "up")
	l.A.Must("ip", "route", "add", lab.B4.String()+"/32", "dev", "other0", "src", lab.A4.String())
	return streams
}

// onVLAN moves the hosts' IPv4 addresses to a VLAN on the NIC. A's SAs are offloaded to device.
func onVLAN(device string) func(*testing.T, *nicLab) []stream {
	const vlan = "vlan7"
	return func(t *testing.T, l *nicLab) []stream {
		t.Helper()
		for i, h := range l.Hosts() {
			address := addresses[i][0].String()
			t.Cleanup(func() {
				h.Must("ip", "link", "del", vlan)
				setUp(t, h, addresses[i][0])
				l.introduce(t)
			})
			h.Must("ip", "-batch", write(t, h, strings.NewReplacer("VLAN", vlan, "DEVICE", l.Device, "ADDRESS", address).Replace(
				"link add VLAN link DEVICE type vlan id 7\naddress del ADDRESS dev DEVICE\naddress add ADDRESS dev VLAN\nlink set VLAN up\n")))
		}
		for i, h := range l.Hosts() {
			l.neighbourOn(t, h, vlan, addresses[1-i][0].Addr(), l.Hosts()[1-i], vlan)
		}
		p := pair4
		l.apply(t, l.B, l.Script(l.B, lab.Pair{SPI: p.SPI, Software: true}))
		l.apply(t, l.A, strings.ReplaceAll(l.Script(l.A, p), "dev "+l.Device+" ", "dev "+device+" "))
		return []stream{{}}
	}
}

// packetPolicy has A's policy for sending offloaded wholly, if the kernel takes it. The SAs are in
// software: no NIC here takes packet offload.
func packetPolicy(t *testing.T, l *nicLab) []stream {
	t.Helper()
	p := lab.Pair{SPI: 0x1000, Software: true}
	l.program(t, p)
	l.apply(t, l.A, "ip xfrm policy flush\n")
	asking := strings.Replace(l.Policies(l.A, p), " dir out ", " dir out offload packet dev p4p1 ", 1)
	err := lab.Apply(l.kernel[l.A], l.A.NS, asking)
	if forKernel(t, "refused", "ignored") == "ignored" {
		if err != nil {
			t.Errorf("6.1 refuses the policy: %v", err)
		}
		return []stream{{}}
	}
	if err == nil {
		t.Error("the kernel took a policy that no NIC can do")
	}
	l.apply(t, l.A, "ip xfrm policy flush\n"+l.Policies(l.A, p))
	return []stream{{}}
}
