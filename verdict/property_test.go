package verdict

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"espalier/ipsec"
)

// truth is what really became of an SA's packets.
type truth struct {
	nic, cpu, clear uint64 // packets by the NIC, by the kernel's own ESP, and by nobody
	early, late     uint64 // of the NIC's, those counted while the SAD was read at the beginning and at the end
	outside         uint64 // those of its packets counted then that are not of the interval
}

func (w truth) moved() uint64 { return w.nic + w.cpu + w.clear }

// drawTruth has a liking for SAs that are altogether one or the other.
func drawTruth(t *rapid.T) (w truth) {
	n := rapid.OneOf(rapid.Uint64Range(0, 300), rapid.Uint64Range(0, 1_000_000)).Draw(t, "packets")
	switch rapid.IntRange(0, 5).Draw(t, "by") {
	case 0, 1, 2:
		w.nic = n
	case 3:
		w.cpu = n
	case 4:
		w.clear = n
	default:
		w.nic = rapid.Uint64Range(0, n).Draw(t, "by the NIC")
		w.cpu = rapid.Uint64Range(0, n-w.nic).Draw(t, "by the CPU")
		w.clear = n - w.nic - w.cpu
	}
	if rapid.Bool().Draw(t, "busy") { // while it is looked at
		w.early = rapid.Uint64Range(0, w.nic/100).Draw(t, "early")
		w.late = rapid.Uint64Range(0, (w.nic-w.early)/100).Draw(t, "late")
		w.outside = rapid.Uint64Range(0, n/10).Draw(t, "outside")
	}
	return w
}

// drawWorld makes a world of a NIC and a bond on it, and what is seen of it. Packets of an SA get a number,
// and the NIC counts those that it encrypts a little earlier or later, by as much as the readings are apart.
func drawWorld(t *rapid.T) (Evidence, []truth) {
	e := Evidence{Interval: time.Duration(rapid.SampledFrom([]int{1, 20, 1000, 5000, 300_000}).Draw(t, "ms")) * time.Millisecond}
	d := Device{Index: nic, Name: "p4p1", Driver: "mlx5_core", Up: true, Carrier: true, Counts: true}
	off := rapid.IntRange(0, 9).Draw(t, "feature") == 0
	d.ESP = [2]Feature{FeatureOn, FeatureOn}
	if off {
		d.ESP = [2]Feature{FeatureOff, FeatureOff}
	}
	direction := rapid.SampledFrom([]ipsec.Direction{ipsec.Inbound, ipsec.Outbound}).Draw(t, "direction")
	watched := rapid.Bool().Draw(t, "watched")
	var truths []truth
	var counted [3]uint64 // by the second reading, the third and the fourth
	count := func(w truth) {
		counted[0] += w.early + w.outside/2
		counted[1] += w.outside/2 + w.nic - w.late
		counted[2] += w.outside + w.nic
	}
	for range rapid.IntRange(1, 4).Draw(t, "SAs") {
		w := drawTruth(t)
		sa := crypto(direction)
		if rapid.IntRange(0, 7).Draw(t, "packet") == 0 {
			sa.Offload.Mode = ipsec.PacketOffload
		} else if off && direction == ipsec.Outbound {
			w = truth{cpu: w.moved()}
		}
		if rapid.IntRange(0, 3).Draw(t, "bond") == 0 {
			sa.Offload.Interface = 9
		}
		if rapid.IntRange(0, 3).Draw(t, "changed") == 0 {
			sa.Changed, sa.Before, sa.After = true, Counts{}, Counts{}
			if rapid.Bool().Draw(t, "with numbers") {
				sa.After.Sequence = rapid.Uint64Range(0, 500).Draw(t, "numbers")
			}
		}
		// A route that is asked for is not that of every packet: of some that the NIC did it is another's.
		sa.Route = rapid.SampledFrom([]int{0, sa.Offload.Interface, sa.Offload.Interface, other}).Draw(t, "route")
		n := w.moved()
		if sa.Offload.Mode == ipsec.PacketOffload { // told as it was within the last second
			old := uint64(float64(n) * refreshed.Seconds() / e.Interval.Seconds())
			n += rapid.Uint64Range(0, old/2).Draw(t, "old at the beginning")
			n -= rapid.Uint64Range(0, min(old/2, n)).Draw(t, "old at the end")
			if n == 0 && w.moved() > 0 {
				n = w.moved()
			}
		}
		sa.After.Sequence, sa.After.Packets = sa.After.Sequence+n, sa.After.Packets+n
		if watched {
			missed := rapid.SampledFrom([]uint64{0, 0, w.cpu / 200, w.cpu / 2}).Draw(t, "not yet seen")
			sa.CPU = &Range{w.cpu - missed, w.cpu + missed}
		}
		e.SAs, truths = append(e.SAs, sa), append(truths, w)
		count(w)
	}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "gone") {
		w := drawTruth(t)
		g := Gone{Device: rapid.SampledFrom([]int{nic, 9}).Draw(t, "gone from"), Direction: direction}
		if rapid.Bool().Draw(t, "seen to go") {
			g.Packets = new(w.moved())
		}
		e.Gone = append(e.Gone, g)
		count(w)
	}
	for i, n := range counted {
		r := &d.Readings[1+i]
		r.Sent, r.Received = Tally{ESP: n, Link: n + 1}, Tally{ESP: n, Link: n + 1}
	}
	bond := d
	bond.Index, bond.Name, bond.Kind, bond.Lower = 9, "bond0", "bond", "p4p1"
	e.Devices = []Device{d, bond, {Index: other, Name: "p4p2"}}
	return e, truths
}

// Whatever the world: of an SA that is HARDWARE the NIC did 99 %, of one that is SOFTWARE none (but for what
// passed while the CPU was watched), of a MIXED one some and not all. And ordinary worlds come to a verdict.
func TestVerdictsAreTrue(t *testing.T) {
	reached := map[Verdict]int{}
	judge := func(t *rapid.T) {
		e, truths := drawWorld(t)
		for i, j := range Judge(e) {
			w := truths[i]
			reached[j.Verdict]++
			var lie bool
			switch j.Verdict {
			case "":
				lie = true
			case Hardware:
				lie = !nearly(w.nic, w.moved())
			case Software:
				lie = w.nic > 0 && (j.Reason != KernelESP || w.nic > w.moved()/100)
			case Mixed:
				lie = w.nic == 0 || w.nic == w.moved()
			}
			if lie || j.Why == "" || j.Reason == "" {
				t.Fatalf("SA %d is said to be %s: %s (%s); in truth %+v\n%+v", i, j.Verdict, j.Why, j.Reason, w, e)
			}
		}
	}
	for range 50 { // lies are rare: worlds have to conspire
		rapid.Check(t, judge)
	}
	for _, v := range []Verdict{Hardware, Software, Mixed, Unknown} {
		if reached[v] == 0 {
			t.Errorf("%s was never reached: this proves nothing of it", v)
		}
	}
}

// An honest NIC is HARDWARE: any number of SAs, however unlike, that have come to rest; and one that is
// busy, if what passes while it is read is less than a percent.
func TestHonestNICsAreHardware(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := quiet()
		e.Interval = time.Second
		sum, n := uint64(0), rapid.IntRange(1, 6).Draw(t, "SAs")
		for i := range n {
			if i > 0 {
				e.SAs = append(e.SAs, crypto(ipsec.Outbound))
			}
			moved := rapid.Uint64Range(1, 1_000_000).Draw(t, "packets")
			e.send(i, moved)
			sum += moved
		}
		e.encrypt(sum)
		if n == 1 {
			e.Devices[0].Readings[3].Sent.ESP += sum / 100
			e.Devices[0].Readings[1].Sent.ESP += sum / 200
		}
		for i, j := range Judge(*e) {
			if j.Verdict != Hardware {
				t.Fatalf("SA %d: %+v", i, j)
			}
		}
	})
}
