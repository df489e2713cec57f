package observe

import (
	"testing"
	"time"

	"espalier/ipsec"
	"espalier/verdict"
	"espalier/xfrm"
)

// readings of one device, 2: what ipsec_tx_pkts, link, lost, dropped were at the four moments, and which port did
// the work.
func twoReadings(kind string, real [4]string, esp [4]uint64, change func(i int, p *port)) (before, after *reading) {
	var ports [4]port
	for i := range ports {
		p := &ports[i]
		*p = port{name: "bond0", kind: kind, real: real[i], lower: real[i], driver: "mlx5_core", up: true, carrier: true, counts: true}
		p.counted.Sent.ESP = esp[i]
		if change != nil {
			change(i, p)
		}
	}
	of := func(i int) [2]map[int]port { return [2]map[int]port{{2: ports[i]}, {2: ports[i+1]}} }
	now := time.Now()
	return &reading{at: now, ports: of(0), states: []*xfrm.State{out(1, 2, 0)}}, &reading{at: now.Add(time.Second), ports: of(2), states: []*xfrm.State{out(1, 2, 1000)}}
}

// What is seen of a bond whose port changes, of counters that start anew or are not there, and what is made of it.
func TestDevicesOverAnInterval(t *testing.T) {
	one := [4]string{"p4p1", "p4p1", "p4p1", "p4p1"}
	for _, c := range []struct {
		name   string
		kind   string
		real   [4]string
		esp    [4]uint64
		change func(int, *port)
		seen   func(*verdict.Device) bool
		want   verdict.Verdict
		reason verdict.Reason
	}{
		{"a bond on one port", "bond", one, [4]uint64{0, 0, 1000, 1000}, nil,
			func(d *verdict.Device) bool { return !d.Shifted && d.Lower == "p4p1" }, verdict.Hardware, verdict.Balanced},
		{"the port changes in the interval", "bond", [4]string{"p4p1", "p4p1", "p4p2", "p4p2"}, [4]uint64{0, 0, 1000, 1000}, nil,
			func(d *verdict.Device) bool { return d.Shifted && d.Lower == "p4p2" }, verdict.Unknown, verdict.NotAsked},
		{"the port changes while the SAs are read", "bond", [4]string{"p4p1", "p4p2", "p4p2", "p4p2"}, [4]uint64{0, 0, 1000, 1000}, nil,
			func(d *verdict.Device) bool { return d.Shifted }, verdict.Unknown, verdict.NotAsked},
		{"it changes and is back", "bond", [4]string{"p4p1", "p4p2", "p4p1", "p4p1"}, [4]uint64{0, 0, 1000, 1000}, nil,
			func(d *verdict.Device) bool { return d.Shifted }, verdict.Unknown, verdict.NotAsked},
		{"no port at the end", "bond", [4]string{"p4p1", "p4p1", "p4p1", ""}, [4]uint64{0, 0, 1000, 0}, nil,
			func(d *verdict.Device) bool { return d.Shifted }, verdict.Unknown, verdict.NotAsked},
		{"counters are reset", "", one, [4]uint64{5000, 5000, 400, 400}, nil,
			func(d *verdict.Device) bool { return d.Readings[0].Sent.ESP == 5000 && d.Readings[3].Sent.ESP == 400 }, verdict.Unknown, verdict.NotAsked},
		{"they are reset and go past where they were", "", one, [4]uint64{500, 500, 400, 900}, nil,
			func(d *verdict.Device) bool { return d.Counts }, verdict.Unknown, verdict.NotAsked},
		{"counters vanish for a moment", "", one, [4]uint64{0, 0, 1000, 1000}, func(i int, p *port) { p.counts = i != 1 },
			func(d *verdict.Device) bool { return !d.Counts }, verdict.Unknown, verdict.NoCounters},
		{"the device cannot be asked for a moment", "", one, [4]uint64{0, 0, 1000, 1000}, func(i int, p *port) {
			if i == 2 {
				p.problem = "EIO"
			}
		}, func(d *verdict.Device) bool { return d.Problem == "EIO" }, verdict.Unknown, verdict.NotAsked},
		{"the NIC drops", "", one, [4]uint64{0, 0, 0, 0}, func(i int, p *port) {
			if i > 1 {
				p.counted.Sent.Dropped = 1000
			}
		}, func(d *verdict.Device) bool { return d.Readings[2].Sent.Dropped == 1000 }, verdict.Unknown, verdict.Dropped},
	} {
		before, after := twoReadings(c.kind, c.real, c.esp, c.change)
		o := compare(before, after, &facts{}, false)
		d := &o.Evidence.Devices[0]
		if len(o.Evidence.Devices) != 1 || !c.seen(d) {
			t.Errorf("%s: %+v", c.name, d)
		}
		if j := o.Judgements[0]; j.Verdict != c.want || j.Reason != c.reason {
			t.Errorf("%s: %+v", c.name, j)
		}
	}
}

// A device that was not there at the beginning, or is not at the end, is no device to judge by.
func TestDeviceComesOrGoes(t *testing.T) {
	before, after := twoReadings("", [4]string{"p4p1", "p4p1", "p4p1", "p4p1"}, [4]uint64{0, 0, 1000, 1000}, nil)
	before.ports = [2]map[int]port{}
	if o := compare(before, after, &facts{}, false); o.Evidence.Devices[0].Problem == "" || o.Judgements[0].Reason != verdict.NotAsked {
		t.Errorf("it came: %+v %+v", o.Evidence.Devices, o.Judgements)
	}
	before, after = twoReadings("", [4]string{"p4p1", "p4p1", "p4p1", "p4p1"}, [4]uint64{0, 0, 1000, 1000}, nil)
	after.ports = [2]map[int]port{}
	if o := compare(before, after, &facts{}, false); len(o.Evidence.Devices) != 0 || o.Judgements[0].Reason != verdict.NotAsked {
		t.Errorf("it went: %+v %+v", o.Evidence.Devices, o.Judgements)
	}
}

// A mark on what an SA sends is one that its route is asked with, as far as its mask goes.
func TestDestination(t *testing.T) {
	s := out(1, 2, 0)
	s.OutputMark = &xfrm.Mark{Value: 0x1234, Mask: 0xff}
	if d := destinationOf(s); d != (destination{src: here, dst: there, mark: 0x34}) {
		t.Errorf("%+v", d)
	}
	if d := destinationOf(out(1, 2, 0)); d.mark != 0 {
		t.Errorf("%+v", d)
	}
}

// An SA whose routes at the two ends differ is not known to leave by either.
func TestRouteChanges(t *testing.T) {
	one := [4]string{"p4p1", "p4p1", "p4p1", "p4p1"}
	for ways, want := range map[[2]int]int{{3, 3}: 3, {3, 2}: 0, {2, 2}: 2} {
		before, after := twoReadings("", one, [4]uint64{}, nil)
		f := &facts{routes: map[destination][2]int{destinationOf(after.states[0]): ways}}
		if o := compare(before, after, f, false); o.Evidence.SAs[0].Route != want || o.Evidence.SAs[0].Direction != ipsec.Outbound {
			t.Errorf("%v: %+v", ways, o.Evidence.SAs[0])
		}
	}
}
