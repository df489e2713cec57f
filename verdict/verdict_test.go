package verdict

import (
	"strings"
	"testing"
	"time"

	"espalier/ipsec"
)

const (
	nic   = 2 // ifindex of the NIC
	other = 3
)

// scene is the evidence of one SA for sending, offloaded to a NIC that has encrypted all of its 100
// packets. Each case changes something about it.
func scene() *Evidence {
	d := Device{Index: nic, Name: "p4p1", Driver: "mlx5_core", Up: true, Carrier: true, Counts: true, ESP: [2]Feature{FeatureOn, FeatureOn}}
	for i := range d.Readings {
		d.Readings[i] = Reading{Sent: Tally{ESP: 7000, Link: 9000}, Received: Tally{ESP: 500, Link: 8000}}
	}
	e := &Evidence{Interval: time.Second, Devices: []Device{d}, SAs: []SA{crypto(ipsec.Outbound)}}
	e.send(0, 100)
	e.encrypt(100)
	return e
}

func crypto(d ipsec.Direction) SA {
	return SA{Direction: d, Offload: ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: nic, Direction: d},
		Before: Counts{Sequence: 1000, Packets: 900, Bytes: 5000}, After: Counts{Sequence: 1000, Packets: 900, Bytes: 5000}}
}

// send has an SA send packets, of which half go as large ones.
func (e *Evidence) send(sa int, n uint64) {
	c := &e.SAs[sa].After
	c.Sequence, c.Packets, c.Bytes = c.Sequence+n, c.Packets+(n+1)/2, c.Bytes+n*1000
}

// receive has an SA receive packets.
func (e *Evidence) receive(sa int, n uint64) {
	c := &e.SAs[sa].After
	c.Sequence, c.Packets, c.Bytes = c.Sequence+n, c.Packets+n, c.Bytes+n*1000
}

// encrypt has the NIC encrypt and send packets, all of them before the SAD was read at the end.
func (e *Evidence) encrypt(n uint64) { e.count(n, n) }

// count has it send some, before and while the SAD was read at the end.
func (e *Evidence) count(least, most uint64) {
	for i, n := range []uint64{least, most} {
		t := &e.Devices[0].Readings[2+i].Sent
		t.ESP, t.Link = t.ESP+n, t.Link+n
	}
}

func (e *Evidence) decrypt(n uint64) {
	for i := 2; i < 4; i++ {
		t := &e.Devices[0].Readings[i].Received
		t.ESP, t.Link = t.ESP+n, t.Link+n
	}
}

// linkOnly has the link of the NIC carry packets that it has not encrypted.
func (e *Evidence) linkOnly(n uint64) {
	for i := 2; i < 4; i++ {
		r := &e.Devices[0].Readings[i]
		r.Sent.Link, r.Received.Link = r.Sent.Link+n, r.Received.Link+n
	}
}

func (e *Evidence) dropped(n, lost uint64) {
	for i := 2; i < 4; i++ {
		t := &e.Devices[0].Readings[i].Sent
		t.Dropped, t.Lost = t.Dropped+n, t.Lost+lost
	}
}

// byCPU has the kernel's own ESP do packets of the first SA.
func (e *Evidence) byCPU(n uint64) { e.SAs[0].CPU = &Range{n, n} }

func quiet() *Evidence { // as scene, before anything is sent
	e := scene()
	e.SAs = []SA{crypto(ipsec.Outbound)}
	for i := range e.Devices[0].Readings {
		e.Devices[0].Readings[i] = e.Devices[0].Readings[0]
	}
	return e
}

func software(d ipsec.Direction) SA { return SA{Direction: d} }

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name    string
		e       func() *Evidence
		verdict Verdict
		reason  Reason
		why     string // part of it
	}{
		{"every packet by the NIC", scene, Hardware, Balanced, "p4p1 encrypted 100 packets, every one of the SA's"},
		{"one packet", func() *Evidence { e := quiet(); e.send(0, 1); e.encrypt(1); return e }, Hardware, Balanced, "p4p1 encrypted 1 packet, "},
		{"received", func() *Evidence {
			e := quiet()
			e.SAs[0] = crypto(ipsec.Inbound)
			e.receive(0, 100)
			e.decrypt(100)
			return e
		}, Hardware, Balanced, "p4p1 decrypted 100 packets"},
		{"received, some replayed: the NIC has decrypted those, too", func() *Evidence {
			e := quiet()
			e.SAs[0] = crypto(ipsec.Inbound)
			e.receive(0, 90)
			e.SAs[0].After.Replayed, e.SAs[0].After.Late = 7, 3
			e.decrypt(100)
			return e
		}, Hardware, Balanced, ""},
		{"counters read while packets pass", func() *Evidence {
			e := quiet()
			e.send(0, 10_000)
			e.count(9_900, 10_050)
			return e
		}, Hardware, Balanced, "9,900–10,050 packets, its SAs had 10,000"},
		{"some under way when the books were closed", func() *Evidence {
			e := quiet()
			e.send(0, 10_000)
			e.encrypt(9_960)
			return e
		}, Hardware, Balanced, "9,960"},
		{"some dropped by the NIC", func() *Evidence { e := quiet(); e.send(0, 100); e.encrypt(90); e.dropped(10, 10); return e }, Hardware, Balanced, "it dropped 10"},
		{"an SA was added and is in the books", func() *Evidence {
			e := scene()
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.SAs[1].Changed, e.SAs[1].Before, e.SAs[1].After = true, Counts{}, Counts{Sequence: 50, Packets: 50}
			e.encrypt(50)
			return e
		}, Hardware, Balanced, ""},
		{"an SA was added with numbers in it, and is idle", func() *Evidence {
			e := scene()
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.SAs[1].Changed, e.SAs[1].Before, e.SAs[1].After = true, Counts{}, Counts{Sequence: 50}
			return e
		}, Hardware, Balanced, ""},

		{"read back without offload", func() *Evidence { e := scene(); e.SAs[0].Offload = ipsec.Offload{}; return e }, Software, NoOffload, "without an offload device"},
		{"routed through another device", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.SAs[0].Route = other
			e.Devices = append(e.Devices, Device{Index: other, Name: "p4p2"})
			return e
		}, Software, RoutedElsewhere, "offloaded to p4p1, but its packets leave by p4p2"},
		{"routed through a VLAN on the device", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.linkOnly(100)
			e.SAs[0].Route = other
			e.Devices = append(e.Devices, Device{Index: other, Name: "p4p1.7", Kind: "vlan", Lower: "p4p1"})
			return e
		}, Software, RoutedElsewhere, "p4p1.7, a vlan on it"},
		{"esp-hw-offload off", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.linkOnly(100)
			e.Devices[0].ESP = [2]Feature{FeatureOff, FeatureOff}
			return e
		}, Software, SwitchedOff, "esp-hw-offload of p4p1 is off"},
		{"the link has carried nothing", func() *Evidence { e := quiet(); e.send(0, 100); return e }, Unknown, LinkStill, "sent nothing at all"},
		{"received by another link", func() *Evidence {
			e := quiet()
			e.SAs[0] = crypto(ipsec.Inbound)
			e.receive(0, 100)
			return e
		}, Unknown, LinkStill, "received nothing at all"},
		{"none by the NIC, all by the kernel", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.linkOnly(100)
			e.byCPU(100)
			return e
		}, Software, KernelESP, "the kernel's own ESP did 100 packets"},
		{"received: none by the NIC, all by the kernel but those refused before", func() *Evidence {
			e := quiet()
			e.SAs[0] = crypto(ipsec.Inbound)
			e.receive(0, 100)
			e.SAs[0].After.Replayed = 10
			e.linkOnly(130)
			e.byCPU(100)
			return e
		}, Software, KernelESP, ""},

		{"some by the NIC", func() *Evidence { e := quiet(); e.send(0, 100); e.encrypt(60); e.linkOnly(40); return e }, Mixed, Partly, "p4p1 encrypted 60 of 100 packets"},
		{"of two, one must have been partly", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.send(1, 10)
			e.encrypt(60)
			e.linkOnly(50)
			return e
		}, Mixed, Partly, "50–60 of 100"},

		{"no packet", quiet, Idle, NoPacket, "no packet"},

		{"userspace device", func() *Evidence { e := scene(); e.Engine = Userspace; e.Devices = nil; return e }, Emulated, UserspaceDevice, "crypto offload to a userspace device"},
		{"userspace device, packet offload, idle", func() *Evidence {
			e := quiet()
			e.Engine, e.SAs[0].Offload.Mode = Userspace, ipsec.PacketOffload
			return e
		}, Idle, NoPacket, ""},
		{"userspace device without offload", func() *Evidence {
			e := scene()
			e.Engine, e.SAs[0].Offload = Userspace, ipsec.Offload{}
			return e
		}, Software, NoOffload, "not offloaded"},
		{"netdevsim", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.linkOnly(100)
			e.Devices[0].Driver, e.Devices[0].Counts = "netdevsim", false
			return e
		}, Emulated, Simulated, "only plays a NIC"},

		{"a counter went backwards", func() *Evidence { e := scene(); e.SAs[0].After.Packets = 1; return e }, Unknown, Backwards, "went backwards"},
		{"all fail the integrity check", func() *Evidence {
			e := quiet()
			e.SAs[0] = crypto(ipsec.Inbound)
			e.SAs[0].After.Forged = 12
			return e
		}, Unknown, Integrity, "12 packets failed"},
		{"the device is gone", func() *Evidence { e := scene(); e.Devices = nil; return e }, Unknown, NotAsked, "interface 2"},
		{"the device does not answer", func() *Evidence { e := scene(); e.Devices[0].Problem = "I/O error"; return e }, Unknown, NotAsked, "I/O error"},
		{"counters were reset", func() *Evidence { e := scene(); e.Devices[0].Readings[2].Sent.ESP = 5; return e }, Unknown, NotAsked, "reset"},
		{"the active port changed", func() *Evidence { e := scene(); e.Devices[0].Shifted = true; return e }, Unknown, NotAsked, "active port"},
		{"Linux 6.1: no counters", func() *Evidence { e := scene(); e.Devices[0].Counts = false; return e }, Unknown, NoCounters, "does not count"},
		{"no carrier", func() *Evidence { e := quiet(); e.send(0, 100); e.Devices[0].Carrier = false; return e }, Unknown, NoCarrier, "lost"},
		{"the NIC drops all", func() *Evidence { e := quiet(); e.send(0, 100); e.dropped(100, 100); return e }, Unknown, Dropped, "dropped all of 100 packets"},
		{"a queue dropped as many as are missing", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.encrypt(60)
			e.dropped(0, 40)
			return e
		}, Unknown, Lost, "lost in its queue"},
		{"counters stand still", func() *Evidence { e := quiet(); e.send(0, 100); e.linkOnly(100); return e }, Unknown, StoodStill, "counted none of 100 packets"},
		{"counters stand still, and the kernel did nothing", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.linkOnly(100)
			e.byCPU(3)
			return e
		}, Unknown, Nobody, "counted none of 97 packets"},
		{"the NIC counts too many", func() *Evidence { e := scene(); e.encrypt(50); return e }, Unknown, Surplus, "150 packets, but its SAs had only 100"},
		{"the NIC counts too many, and an SA went", func() *Evidence {
			e := scene()
			e.encrypt(50)
			e.Gone = []Gone{{Device: nic, Direction: ipsec.Outbound}}
			return e
		}, Unknown, CameOrWent, ""},
		{"too few, and an SA went", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.encrypt(50)
			e.Gone = []Gone{{Device: nic, Direction: ipsec.Outbound}}
			return e
		}, Unknown, CameOrWent, ""},
		{"an SA was added, with numbers that were another's before", func() *Evidence {
			e := scene()
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.SAs[1].Changed, e.SAs[1].Before, e.SAs[1].After = true, Counts{}, Counts{Sequence: 500, Packets: 50}
			e.encrypt(50)
			return e
		}, Unknown, CameOrWent, "150"},
		{"routed elsewhere, and yet counted", func() *Evidence { e := scene(); e.SAs[0].Route = other; return e }, Unknown, Surplus, "yet p4p1 encrypted 100"},
		{"much passed while the counters were read", func() *Evidence {
			e := quiet()
			e.send(0, 10_000)
			e.count(5_000, 12_000)
			return e
		}, Unknown, Coarse, "--interval"},
		{"of two, it is not known which", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.send(1, 100)
			e.encrypt(100)
			return e
		}, Unknown, SomeOfThem, "which is not known"},
		{"a driver nobody knows", func() *Evidence { e := scene(); e.Devices[0].Driver = "acme"; return e }, Unknown, Strange, "acme"},
		{"NIC and kernel both did it", func() *Evidence { e := scene(); e.byCPU(100); return e }, Unknown, Surplus, "yet p4p1 encrypted 100"},
		{"each did its part", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.encrypt(60)
			e.linkOnly(40)
			e.byCPU(40)
			return e
		}, Mixed, Partly, "the kernel's own ESP did 40 of 100"},
		{"of two, one was seen to be the kernel's", func() *Evidence {
			e := quiet()
			e.send(0, 100)
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.send(1, 70)
			e.SAs[1].CPU = &Range{70, 70}
			e.byCPU(0)
			e.encrypt(100)
			return e
		}, Hardware, Balanced, ""},
		{"packet offload on a kernel that does not count", func() *Evidence {
			e := quiet()
			e.SAs[0].Offload.Mode = ipsec.PacketOffload
			e.encrypt(100)
			return e
		}, Unknown, Uncounted, "packet offload"},
		{"packet offload, idle", func() *Evidence { e := quiet(); e.SAs[0].Offload.Mode = ipsec.PacketOffload; return e }, Idle, NoPacket, ""},
		{"packet offload, counted by the NIC only", func() *Evidence {
			e := quiet()
			e.SAs[0].Offload.Mode, e.Interval = ipsec.PacketOffload, 300*time.Second
			e.SAs[0].After.Packets += 10_000
			e.encrypt(9_980) // brought up to date once a second
			return e
		}, Hardware, Balanced, ""},
		{"a packet-offloaded SA is not said to be routed elsewhere", func() *Evidence {
			e := scene()
			e.SAs[0].Offload.Mode, e.SAs[0].Route, e.Interval = ipsec.PacketOffload, other, 300*time.Second
			return e
		}, Hardware, Balanced, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := c.e()
			all := Judge(*e)
			if len(all) != len(e.SAs) {
				t.Fatalf("%d judgements of %d SAs", len(all), len(e.SAs))
			}
			if j := all[0]; j.Verdict != c.verdict || j.Reason != c.reason || !strings.Contains(j.Why, c.why) || j.Why == "" {
				t.Errorf("%s, %s: %q\nwant %s, %s: %q", j.Verdict, j.Reason, j.Why, c.verdict, c.reason, c.why)
			}
		})
	}
}

// What is known of an SA on the same device keeps the others' books clean: one that the CPU was seen
// to do does not take HARDWARE from its neighbour.
func TestNeighbours(t *testing.T) {
	e := scene()
	e.SAs = append(e.SAs, crypto(ipsec.Outbound), software(ipsec.Outbound), crypto(ipsec.Inbound))
	e.SAs[1].Route, e.SAs[1].CPU = other, &Range{77, 77}
	e.send(1, 77)
	e.send(2, 88)
	e.receive(3, 5)
	e.decrypt(5)
	for i, want := range []Verdict{Hardware, Software, Software, Hardware} {
		if j := Judge(*e)[i]; j.Verdict != want {
			t.Errorf("SA %d: %+v, want %s", i, j, want)
		}
	}
}

// What one SA had, or another device's, is not put down to another: each of these was HARDWARE once for
// an SA of which the NIC did little or nothing.
func TestNobodyPaysForOthers(t *testing.T) {
	for _, c := range []struct {
		name string
		e    func(e *Evidence)
		want []Reason
	}{
		{"packet offload, 1 of 1,000,000", func(e *Evidence) {
			e.SAs[0].Offload.Mode = ipsec.PacketOffload
			e.send(0, 1_000_000)
			e.encrypt(1)
		}, []Reason{SomeOfThem}},
		{"packet offload, all that there is, but a second is not enough", func(e *Evidence) {
			e.SAs[0].Offload.Mode = ipsec.PacketOffload
			e.send(0, 1000)
			e.encrypt(1000)
		}, []Reason{SomeOfThem}},
		{"an idle SA of packet offload beside it", func(e *Evidence) {
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.SAs[1].Offload.Mode = ipsec.PacketOffload
			e.send(0, 1_000_000)
			e.encrypt(1)
		}, []Reason{Partly, NoPacket}},
		{"a large one beside it", func(e *Evidence) {
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.send(0, 1_000_000)
			e.send(1, 4000)
			e.encrypt(1_000_000)
		}, []Reason{Balanced, SomeOfThem}},
		{"a short interval", func(e *Evidence) {
			e.Interval = 5 * time.Millisecond
			e.send(0, 1000)
			e.encrypt(760)
		}, []Reason{Partly}},
		{"one that went", func(e *Evidence) {
			e.send(0, 1000)
			e.encrypt(1000)
			e.Gone = []Gone{{Device: nic, Direction: ipsec.Outbound}}
		}, []Reason{CameOrWent}},
		{"one that went, and can have had five", func(e *Evidence) {
			e.send(0, 1000)
			e.encrypt(1000)
			e.Gone = []Gone{{nic, ipsec.Outbound, new(uint64(5))}}
		}, []Reason{Balanced}},
		{"one that went, and can have had fifty", func(e *Evidence) {
			e.send(0, 1000)
			e.encrypt(1000)
			e.Gone = []Gone{{nic, ipsec.Outbound, new(uint64(50))}}
		}, []Reason{SomeOfThem}},
		{"one that went, of another direction", func(e *Evidence) {
			e.send(0, 1000)
			e.encrypt(1000)
			e.Gone = []Gone{{Device: nic, Direction: ipsec.Inbound}}
		}, []Reason{Balanced}},
		{"one whose route is another device's", func(e *Evidence) {
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.SAs[0].Route = other
			e.send(0, 1000)
			e.send(1, 1000)
			e.encrypt(1000)
		}, []Reason{SomeOfThem, SomeOfThem}},
		{"a bond on the NIC", func(e *Evidence) {
			e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			e.SAs[1].Offload.Interface = 9
			e.send(0, 1000)
			e.send(1, 1000)
			e.encrypt(1000)
			bond := e.Devices[0]
			bond.Index, bond.Name, bond.Kind, bond.Lower = 9, "bond0", "bond", "p4p1"
			e.Devices = append(e.Devices, bond)
		}, []Reason{SomeOfThem, SomeOfThem}},
		{"the kernel was seen to do half of it", func(e *Evidence) {
			e.send(0, 1000)
			e.encrypt(1000)
			e.byCPU(500)
		}, []Reason{Surplus}},
		{"a tenth is not certain", func(e *Evidence) {
			e.send(0, 10_000)
			e.count(9000, 10_000)
		}, []Reason{Coarse}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := quiet()
			c.e(e)
			for i, j := range Judge(*e) {
				if j.Reason != c.want[i] {
					t.Errorf("SA %d: %s, %s: %s; want %s", i, j.Verdict, j.Reason, j.Why, c.want[i])
				}
			}
		})
	}
}

// Every rule is whole, and the last one always applies.
func TestRules(t *testing.T) {
	for i, r := range rules {
		if r.reason == "" || r.verdict == "" || r.when == nil || r.why == nil {
			t.Errorf("rule %d: %+v", i, r.reason)
		}
	}
	if last := rules[len(rules)-1]; !last.when(nil) {
		t.Error("an SA may be left without a judgement")
	}
}

// A lab's driver is trusted in binaries of tests only.
func TestTrust(t *testing.T) {
	for driver, want := range map[string]Trust{"mlx5_core": Trusted, "netdevsim": Emulation, "labnic": labNIC, "veth": Stranger, "": Stranger} {
		if got := TrustIn(driver); got != want {
			t.Errorf("%q: %s, want %s", driver, got, want)
		}
	}
	e := scene()
	e.Devices[0].Driver = "labnic"
	want := map[Trust]Verdict{Emulation: Emulated, Trusted: Hardware}[labNIC]
	if j := Judge(*e)[0]; j.Verdict != want || j.Reason != Balanced {
		t.Errorf("labnic: %+v, want %s", j, want)
	}
}

func TestTogether(t *testing.T) {
	for _, c := range []struct {
		of   []Verdict
		want Verdict
	}{
		{nil, Idle},
		{[]Verdict{Idle, Idle}, Idle},
		{[]Verdict{Hardware, Idle}, Hardware},
		{[]Verdict{Idle, Hardware, Hardware}, Hardware},
		{[]Verdict{Hardware, Software}, Mixed},
		{[]Verdict{Mixed, Hardware}, Mixed},
		{[]Verdict{Hardware, Unknown}, Unknown},
		{[]Verdict{Hardware, Software, Unknown}, Unknown},
		{[]Verdict{Emulated, Emulated}, Emulated},
		{[]Verdict{Emulated, Software}, Software},
		{[]Verdict{Software, Idle, Emulated}, Software},
		{[]Verdict{Emulated, Software, Hardware}, Mixed},
		{[]Verdict{Emulated, Hardware}, Mixed},
	} {
		if got := Together(c.of...); got != c.want {
			t.Errorf("%v: %s, want %s", c.of, got, c.want)
		}
	}
}
