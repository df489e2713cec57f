package dataplane

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
)

// fate is what became of a packet: the SPIs of the ESP packets it left in, "clear", or why it was
// dropped.
func fate(d *Device, packets [][]byte, before []uint64) string {
	var out []string
	for _, p := range packets {
		if p[9] == inet.ProtoESP {
			out = append(out, fmt.Sprintf("%#x", binary.BigEndian.Uint32(p[inet.IPv4Len:])))
		} else {
			out = append(out, "clear")
		}
	}
	for r, n := range dropped(d) {
		if n != before[r] {
			out = append(out, fmt.Sprint("dropped: ", Reason(r)))
		}
	}
	return fmt.Sprint(out)
}

func dropped(d *Device) []uint64 {
	counts := make([]uint64, reasons)
	for r := range counts {
		counts[r] = d.drops[r].Load()
	}
	return counts
}

// sendOne is the fate of one frame.
func sendOne(o *outbound, packet []byte) string {
	wire, before := new(memory), dropped(o.d)
	o.wire, o.fragments = wire, inet.Reassembler{}
	o.handle([]tun.Frame{{Packet: packet}})
	return fate(o.d, wire.packets, before)
}

// What is remembered of a flow decides as what is looked up, whatever has become of policies and SAs
// meanwhile.
func TestFlowsDecideAsLookedUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := pathDevice(t, 0, ipsec.Outbound)
		const queues = 3 // none of them, and two
		var remembering [queues]*outbound
		for i := range remembering {
			remembering[i] = newOutbound(d, nil)
			remembering[i].queue = uint16(i)
		}
		var policies []*policy
		sas := map[ipsec.SPI]*association{}
		next := ipsec.SPI(0x1000)
		drawPolicy := func(old *policy) *policy {
			p := ipsec.Policy{
				Direction: ipsec.Outbound, Priority: uint32(rapid.IntRange(0, 2).Draw(t, "priority")),
				Action:     rapid.SampledFrom([]ipsec.Action{ipsec.Protect, ipsec.Protect, ipsec.Protect, ipsec.Bypass, ipsec.Discard}).Draw(t, "action"),
				Selector:   rapid.SampledFrom([]ipsec.Selector{{}, {Dst: hostPrefix(hostB)}, {Dst: hostPrefix(hostB), DstPort: ipsec.Port(7)}, {SrcPort: ipsec.Port(1)}}).Draw(t, "selector"),
				Processing: []ipsec.Processing{{Src: hostA, Dst: hostB, RequestID: uint32(rapid.IntRange(1, 2).Draw(t, "request")), Mode: ipsec.Tunnel}},
			}
			if rapid.Bool().Draw(t, "transport") {
				p.Processing[0].Mode, p.Processing[0].Optional = ipsec.Transport, rapid.Bool().Draw(t, "optional")
			}
			return d.spd.prepare(&p, old)
		}
		change := func() {
			switch what := rapid.IntRange(0, 7).Draw(t, "change"); {
			case what == 0:
				p := drawPolicy(nil)
				d.spd.put(p, nil)
				policies = append(policies, p)
			case what == 1 && len(policies) > 0:
				i := rapid.IntRange(0, len(policies)-1).Draw(t, "which")
				p := drawPolicy(policies[i])
				d.spd.put(p, policies[i])
				policies[i] = p
			case what == 2 && len(policies) > 0:
				i := rapid.IntRange(0, len(policies)-1).Draw(t, "which")
				d.spd.drop(policies[i])
				policies = slices.Delete(policies, i, i+1)
			case what == 3 || what == 4:
				sa := pathSA(0)
				sa.SPI, sa.RequestID = next, uint32(rapid.IntRange(1, 2).Draw(t, "request"))
				sa.Mode = rapid.SampledFrom([]ipsec.Mode{ipsec.Tunnel, ipsec.Transport}).Draw(t, "mode")
				if rapid.Bool().Draw(t, "narrow") {
					sa.Selector.SrcPort = ipsec.Port(1)
				}
				if cpu := rapid.Uint32Range(0, 2*queues).Draw(t, "CPU"); cpu+1 < queues {
					sa.CPU = &cpu
				}
				a, err := d.sad.add(sa, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				next++
				sas[sa.SPI] = a
			case len(sas) > 0:
				spi := rapid.SampledFrom(slices.Sorted(maps.Keys(sas))).Draw(t, "SPI")
				switch what {
				case 5:
					d.sad.remove(sas[spi].id)
					delete(sas, spi)
				case 6:
					sas[spi].blemishes.add(dying)
				case 7:
					sas[spi].blemishes.add(spent)
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "step") == 0 {
				change()
				continue
			}
			p := udpPacket(rapid.SampledFrom([]netip.Addr{hostB, hostA}).Draw(t, "to"), uint16(rapid.IntRange(1, 2).Draw(t, "port")), 100)
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0: // first fragment: with ports
				p[6] = 0x20
			case 1: // second fragment: without
				p[6], p[7] = 0, 10
			case 2: // cut short: without, too
				p = p[:inet.IPv4Len+2]
				inet.SetLength(p)
			case 3:
				clear(p[20:24]) // ports 0
			case 4: // too long with ESP
				p = udpPacket(hostB, 1, 9000-20)
			}
			inet.SetIPv4Checksum(p[:inet.IPv4Len])
			queue := rapid.IntRange(0, queues-1).Draw(t, "queue")
			o := newOutbound(d, nil)
			o.queue = uint16(queue)
			got, want := sendOne(remembering[queue], p), sendOne(o, p)
			if got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		}
	})
}

// Decisions are remembered at all, and the policy is in use as long as packets go by them.
func TestFlowsAreRemembered(t *testing.T) {
	d := pathDevice(t, 1, ipsec.Outbound)
	o := newOutbound(d, nil)
	frame := udpPacket(pathHost(0), 1, 100)
	for now := range int64(3) {
		d.keeper.now.Store(now + 5)
		sendOne(o, frame)
		h, _ := inet.Parse(frame)
		known := o.flows.of(frame, &h)
		if known.sa != d.sad.inbound(ipsec.SAID{Dst: hostB, SPI: pathSA(0).SPI}) {
			t.Fatalf("remembered: %+v", known)
		}
		if used := int64(known.policy.used.Load()); used != now+5 {
			t.Errorf("policy last used at %d, want %d", used, now+5)
		}
	}
	if n, at := unsafe.Sizeof(decision{}), uintptr(unsafe.Pointer(&o.flows.decided)); n != 64 || at%64 != 0 {
		t.Errorf("decisions of %d bytes from %#x on: each should be one cache line", n, at)
	}
}

// Nobody knows what SA a packet without ports belongs to, even if others of what looks like its flow
// are known.
func TestFlowsWithoutPorts(t *testing.T) {
	d := pathDevice(t, 1, ipsec.Outbound)
	sa := pathSA(0)
	sa.SPI++
	sa.Selector.SrcPort = ipsec.Port(0)
	if _, err := d.sad.add(sa, nil, nil); err != nil {
		t.Fatal(err)
	}
	o := newOutbound(d, nil)
	whole := udpPacket(pathHost(0), 0, 100)
	clear(whole[20:24])
	fragment, short := slices.Clone(whole), slices.Clone(whole[:inet.IPv4Len+2])
	fragment[6] = 0x20 // the first one
	inet.SetIPv4Checksum(fragment[:inet.IPv4Len])
	inet.SetLength(short)
	for _, p := range [][]byte{whole, whole, fragment, short, whole} {
		want := fmt.Sprintf("[%#x]", uint32(sa.SPI))
		if len(p) != len(whole) || p[6] == 0x20 {
			want = fmt.Sprintf("[dropped: %s]", OutFragmentSelector)
		}
		if got := sendOne(o, p); got != want {
			t.Errorf("%x: %s, want %s", p[:24], got, want)
		}
	}
}

// Two flows are never taken for one, wherever they stand in the table.
func TestFlowKey(t *testing.T) {
	keyOf := func(p []byte) (k flowKey) {
		h, err := inet.Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		k.read(p, &h)
		return k
	}
	six := func(change func(p []byte)) []byte {
		p := make([]byte, 48)
		p[0], p[5], p[6], p[23], p[39], p[41], p[43] = 6<<4, 8, inet.ProtoUDP, 1, 2, 3, 4
		change(p)
		return p
	}
	seen := map[flowKey]int{}
	for i, p := range [][]byte{
		udpPacket(hostB, 1, 100), udpPacket(hostA, 1, 100), udpPacket(hostB, 2, 100), udpPacket(hostB, 0x100, 100),
		func() []byte { p := udpPacket(hostB, 1, 100); p[12]++; return p }(),
		func() []byte { p := udpPacket(hostB, 1, 100); p[9] = inet.ProtoTCP; return p }(),
		func() []byte { p := udpPacket(hostB, 1, 100); p[23]++; return p }(),
		six(func([]byte) {}), six(func(p []byte) { p[8]++ }), six(func(p []byte) { p[23]++ }), six(func(p []byte) { p[24]++ }),
		six(func(p []byte) { p[39]++ }), six(func(p []byte) { p[41]++ }), six(func(p []byte) { p[43]++ }), six(func(p []byte) { p[6] = inet.ProtoTCP }),
	} {
		k := keyOf(p)
		if j, ok := seen[k]; ok {
			t.Errorf("flows %d and %d have one key", i, j)
		}
		seen[k] = i
	}
}

// No packet goes by an SA or a policy that had gone before the packet came.
func TestFlowsDoNotOutliveChanges(t *testing.T) {
	const changes = 2000
	d := pathDevice(t, 0, ipsec.Outbound)
	var begun, done atomic.Int64 // the newest that packets may go by, and must
	var last *policy
	change := func(i int) {
		begun.Store(int64(i))
		sa := pathSA(i)
		p := ipsec.Policy{
			Direction: ipsec.Outbound, Action: ipsec.Protect, Selector: ipsec.Selector{Dst: hostPrefix(hostB)},
			Processing: []ipsec.Processing{{Src: hostA, Dst: hostB, RequestID: uint32(i), Mode: ipsec.Tunnel}},
		}
		if sa.RequestID = uint32(i); i%2 == 1 { // every other time only the SA is another
			sa.RequestID = uint32(i - 1)
		}
		if _, err := d.sad.add(sa, nil, nil); err != nil {
			t.Error(err)
		}
		if i%2 == 0 {
			next := d.spd.prepare(&p, last)
			d.spd.put(next, last)
			last = next
		}
		done.Store(int64(i))
		if i > 0 {
			old := pathSA(i - 1)
			d.sad.remove(old.ID())
		}
	}
	change(0)
	var queues sync.WaitGroup
	for range 2 {
		queues.Go(func() {
			wire := new(memory)
			o := newOutbound(d, wire)
			frames := udpFrames(4, 64, func(int) netip.Addr { return hostB }, nil)
			for oldest := int64(0); oldest < changes; {
				oldest = done.Load()
				wire.packets = wire.packets[:0]
				o.handle(frames)
				newest := begun.Load()
				for _, p := range wire.packets {
					if i := int64(binary.BigEndian.Uint32(p[inet.IPv4Len:])) - int64(pathSA(0).SPI); p[9] != inet.ProtoESP || i < oldest || i > newest {
						t.Errorf("protocol %d, SA %d: it should be one from %d to %d", p[9], i, oldest, newest)
						return
					}
				}
			}
		})
	}
	for i := range changes {
		change(i + 1)
	}
	queues.Wait()
}

// What inbound packets were admitted by does not admit one more when it has gone, or when they come
// by another SA.
func TestInboundFlowsDoNotOutliveChanges(t *testing.T) {
	policyOf := func(d *Device) *policy { return d.spd.newestFirst()[1] } // that of the first tunnel
	replaced := func(d *Device, change func(p *ipsec.Policy)) {
		old := policyOf(d)
		p := old.Policy
		p.Processing = slices.Clone(p.Processing)
		change(&p)
		d.spd.put(d.spd.prepare(&p, old), old)
	}
	for _, c := range []struct {
		name   string
		change func(d *Device)
		by     int // which tunnel the second packet comes by
		want   Reason
	}{
		{"nothing", func(*Device) {}, 0, reasons},
		{"another SA", func(*Device) {}, 1, InPolicyMismatch},
		{"policy deleted", func(d *Device) { d.spd.drop(policyOf(d)) }, 0, InNoPolicy},
		{"policies flushed", func(d *Device) { d.spd.flush() }, 0, InNoPolicy},
		{"policy discards", func(d *Device) { replaced(d, func(p *ipsec.Policy) { p.Action = ipsec.Discard }) }, 0, InPolicyDiscard},
		{"policy wants another SA", func(d *Device) { replaced(d, func(p *ipsec.Policy) { p.Processing[0].RequestID = 2 }) }, 0, InPolicyMismatch},
		{"a stronger policy", func(d *Device) {
			replaced(d, func(p *ipsec.Policy) { p.Priority = 1 })
			d.spd.put(d.spd.prepare(&ipsec.Policy{Direction: ipsec.Forward, Action: ipsec.Discard, Selector: ipsec.Selector{Src: hostPrefix(hostA)}}, nil), nil)
		}, 0, InPolicyDiscard},
		{"SA deleted", func(d *Device) { d.sad.remove(ipsec.SAID{Dst: hostB, SPI: pathSA(0).SPI}) }, 0, InNoSA},
		{"the address is local now", func(d *Device) { d.locals.replace(map[netip.Addr]struct{}{pathHost(0): {}}) }, 0, InNoPolicy},
	} {
		d := pathDevice(t, 2, ipsec.Inbound)
		delivered := 0
		path := d.InboundPath(func(_ tun.VirtioHeader, _ []byte, n int) { delivered += n })
		packet := udpPacket(pathHost(0), 1, 100)
		datagrams := sealedBy(t, 0, [][]byte{packet, packet})
		path(datagrams[:1])
		c.change(d)
		if c.by != 0 {
			datagrams = sealedBy(t, c.by, [][]byte{packet, packet})
		}
		path(datagrams[1:])
		switch {
		case delivered == 0:
			t.Errorf("%s: the first packet was not delivered: %v", c.name, dropped(d))
		case c.want == reasons && delivered != 2:
			t.Errorf("%s: dropped: %v", c.name, dropped(d))
		case c.want != reasons && (delivered != 1 || d.drops[c.want].Load() != 1):
			t.Errorf("%s: %d delivered, dropped: %v, want one for %v", c.name, delivered, dropped(d), c.want)
		}
	}
}
