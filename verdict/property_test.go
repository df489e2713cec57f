package verdict

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"espalier/ipsec"
)

// drawEvidence makes any evidence, with a liking for books that nearly balance.
func drawEvidence(t *rapid.T) Evidence {
	small := rapid.Uint64Range(0, 300)
	e := Evidence{Interval: time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond}
	if rapid.IntRange(0, 9).Draw(t, "userspace") == 0 {
		e.Engine = Userspace
	}
	drivers := rapid.SampledFrom([]string{"mlx5_core", "mlx5_core", "mlx5_core", "labnic", "netdevsim", "acme", ""})
	for index := range 2 {
		d := Device{Index: index + 1, Name: "p", Driver: drivers.Draw(t, "driver"), Up: true, Carrier: rapid.IntRange(0, 9).Draw(t, "carrier") > 0,
			Counts: rapid.IntRange(0, 9).Draw(t, "counts") > 0}
		for i := range d.ESP {
			d.ESP[i] = Feature(rapid.IntRange(0, 2).Draw(t, "feature"))
		}
		e.Devices = append(e.Devices, d)
	}
	for range rapid.IntRange(0, 5).Draw(t, "SAs") {
		direction := rapid.SampledFrom([]ipsec.Direction{ipsec.Inbound, ipsec.Outbound}).Draw(t, "direction")
		sa := SA{Direction: direction, Route: rapid.IntRange(0, 2).Draw(t, "route")}
		if mode := rapid.SampledFrom([]ipsec.OffloadMode{ipsec.NoOffload, ipsec.CryptoOffload, ipsec.CryptoOffload, ipsec.PacketOffload}).Draw(t, "mode"); mode != ipsec.NoOffload {
			sa.Offload = ipsec.Offload{Mode: mode, Interface: rapid.IntRange(1, 3).Draw(t, "device"), Direction: direction}
		}
		n := small.Draw(t, "moved")
		if rapid.IntRange(0, 4).Draw(t, "watched") == 0 {
			least := rapid.Uint64Range(0, n).Draw(t, "by the CPU")
			sa.CPU = &Range{least, least + rapid.Uint64Range(0, 2).Draw(t, "or more")}
		}
		sa.After = Counts{Sequence: n, Packets: n, Bytes: n}
		if direction == ipsec.Inbound {
			sa.After.Replayed = rapid.Uint64Range(0, 3).Draw(t, "replayed")
		}
		e.SAs = append(e.SAs, sa)
	}
	for i := range e.Devices {
		d := &e.Devices[i]
		for _, direction := range []ipsec.Direction{ipsec.Inbound, ipsec.Outbound} {
			sum := sentThrough(&e, d.Index, direction, nil)
			near := rapid.SampledFrom([]uint64{0, sum, sum, sum, sum / 2, sum + 1, sum + 100}).Draw(t, "done")
			for r := 2; r < 4; r++ {
				tally := &d.Readings[r].Sent
				if direction == ipsec.Inbound {
					tally = &d.Readings[r].Received
				}
				*tally = Tally{ESP: near + uint64(r-2)*rapid.Uint64Range(0, 2).Draw(t, "meanwhile"), Link: near, Dropped: rapid.Uint64Range(0, 1).Draw(t, "dropped")}
			}
		}
	}
	return e
}

// sentThrough is what the SAs offloaded to a device had, less those of certain verdicts.
func sentThrough(e *Evidence, device int, d ipsec.Direction, past []Judgement) (n uint64) {
	for i := range e.SAs {
		sa := &e.SAs[i]
		if sa.Offload.Mode != ipsec.NoOffload && sa.Offload.Interface == device && sa.Offload.Direction == d && (past == nil || past[i].Verdict != Software) {
			n += sa.Moved()
			if past != nil && sa.CPU != nil {
				n -= min(sa.CPU.Low, sa.Moved())
			}
		}
	}
	return n
}

// Never HARDWARE, unless a trusted driver's device was read back for the SA, its counters account for
// every packet of its SAs in that direction but those that were under way or dropped by it, and all of the
// SAs in the same books are HARDWARE or idle, or were seen to be the CPU's in part or altogether.
func TestHardwareNeedsBalancedBooks(t *testing.T) {
	reached := 0
	rapid.Check(t, func(t *rapid.T) {
		e := drawEvidence(t)
		all := Judge(e)
		for i, j := range all {
			if j.Verdict == "" || j.Why == "" || j.Reason == "" {
				t.Fatalf("SA %d has no judgement: %+v", i, j)
			}
			if j.Verdict != Hardware {
				continue
			}
			reached++
			sa := &e.SAs[i]
			d := e.device(sa.Offload.Interface)
			if e.Engine != Kernel || sa.Offload.Mode == ipsec.NoOffload || d == nil || !d.Counts || TrustIn(d.Driver) != Trusted || sa.Moved() == 0 {
				t.Fatalf("HARDWARE: %+v on %+v", sa, d)
			}
			tally := func(r int) Tally {
				if sa.Offload.Direction == ipsec.Inbound {
					return d.Readings[r].Received
				}
				return d.Readings[r].Sent
			}
			if sa.CPU != nil && sa.CPU.Low > sa.Moved()/10+uint64(float64(sa.Moved())*0.01/e.Interval.Seconds()) {
				t.Fatalf("HARDWARE, and the CPU did %d of %d", sa.CPU.Low, sa.Moved())
			}
			done, dropped := tally(3).ESP, tally(3).Dropped
			if sa.Offload.Direction == ipsec.Inbound {
				dropped = 0
			}
			sum := sentThrough(&e, d.Index, sa.Offload.Direction, all)
			underWay := uint64(float64(sum) * 1.01 / e.Interval.Seconds()) // of packet offload, which is the most
			for k := range e.SAs {
				o := &e.SAs[k]
				seen := all[k].Verdict == Mixed && o.CPU != nil // what the CPU did of it is out of the books
				if o.Offload == sa.Offload && all[k].Verdict != Hardware && all[k].Verdict != Idle && all[k].Verdict != Software && !seen {
					t.Fatalf("one of the books is HARDWARE, one %+v", all[k])
				}
			}
			if done+dropped+underWay < sum || tally(2).ESP > sum+underWay {
				t.Fatalf("HARDWARE, and the NIC did %d–%d, dropped %d of %d", tally(2).ESP, done, dropped, sum)
			}
		}
	})
	if reached == 0 {
		t.Error("HARDWARE was never reached: this proves nothing")
	}
}
