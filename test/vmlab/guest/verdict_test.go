package guest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
	"espalier/xfrm"
)

// scene is a state of affairs of which the truth is known, and what `espalier status` has to say
// of it.
type scene struct {
	name string
	// set makes it, on hosts joined by the NIC, and says what is sent meanwhile. What it changes
	// it changes back at the test's end.
	set func(t *testing.T, l *nicLab) []stream
	// tap is a device of A's by which packets leave too, if not "".
	tap string
	// meanwhile, if not nil, happens between two bursts.
	meanwhile func(t *testing.T, l *nicLab)
	probe     bool // as with --probe
	release   bool // the program that is delivered is asked
	claims    []claim
}

// claim is what is to come out for one SA.
type claim struct {
	of      string // which of the scene's SAs; "" if there is but one
	host    int    // 0 for A, who is asked, 1 for B
	spi     uint32
	out     bool // the SA is for sending there
	truth   truth
	verdict string
	finding string // that there has to be, instead of a verdict: there is no SA
	old     *claim // with 6.1: truth and verdict that differ there
}

// pairs by which the scenes send: A→B has the SPI, B→A the next.
var (
	pair4     = lab.Pair{SPI: 0x1000}
	pair6     = lab.Pair{SPI: 0x2000, V6: true}
	software6 = lab.Pair{SPI: 0x2000, V6: true, Software: true}
)

// ways are one stream each way.
func ways(v6 bool) []stream { return []stream{{v6: v6}, {v6: v6, back: true}} }

// sending and receiving are claims about A's SAs of a pair.
func sending(spi uint32, is truth, verdict string) claim {
	return claim{of: "sending", spi: spi, out: true, truth: is, verdict: verdict}
}

func receiving(spi uint32, is truth, verdict string) claim {
	return claim{of: "receiving", spi: spi + 1, truth: is, verdict: verdict}
}

// at says whose SA a claim is about.
func (c claim) atB() claim { c.host = 1; return c }

func (c claim) called(of string) claim { c.of = of; return c }

// verdictSection is where the host notes what came of scenes: docs/verdict.md.
const verdictSection = VerdictSection + "on the lab's NIC"

// What espalier status says is right in every mode of the NIC.
func TestVerdictNIC(t *testing.T) {
	l := newNICLab(t, "p4p1")
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			l.flush(t)
			s.play(t, l)
		})
	}
}

// play sets the scene, has packets pass while both hosts are asked, and compares.
func (s *scene) play(t *testing.T, l *nicLab) {
	t.Helper()
	send := open(t, [2]*lab.Host{l.A, l.B}, s.set(t, l))
	cable := watchCable(t)
	var other *capture
	if s.tap != "" {
		other = watchDevice(t, s.tap, lab.Classifier(), l.A.Do)
	}
	said := s.ask(t, l, func() {
		send()
		if s.meanwhile != nil {
			s.meanwhile(t, l)
			send()
		}
		l.comeToRest(t)
	})
	_, packets := cable.stop(t)
	if other != nil {
		_, more := other.stop(t)
		packets = append(packets, more...)
	}
	for _, c := range s.claims {
		c = c.forKernel(t)
		name := s.name
		if c.of != "" {
			name += ", " + c.of
		}
		is := l.truthOf(t, c.host, c.sa(), c.out, packets)
		result, why, ok := c.check(&said[c.host])
		if is != c.truth || !ok {
			t.Errorf("%s: in truth %s, want %s; status says %s, want %s%s: %s", name, is, c.truth, result, c.verdict, c.finding, why)
			continue
		}
		Tell(verdictSection, name, fmt.Sprintf("%s → %s", is, result))
	}
}

// ask asks both hosts what they say of a burst.
func (s *scene) ask(t *testing.T, l *nicLab, send func()) (said [2]statusView) {
	t.Helper()
	if s.release {
		said[0] = released(t, l.A, send)
		return said
	}
	a, b := observer(t, l.A, l.kernel[l.A], false, s.probe), observer(t, l.B, l.kernel[l.B], false, false)
	said[0] = during(t, a, func() {
		said[1] = during(t, b, send)
	})
	return said
}

// sa is the SA of the claim, as its sender knows it.
func (c *claim) sa() lab.SA {
	for _, p := range []lab.Pair{{SPI: c.spi &^ 1}, {SPI: c.spi &^ 1, V6: true}} {
		if p.V6 == (c.spi >= pair6.SPI) {
			return p.SAs()[c.spi&1]
		}
	}
	return lab.SA{}
}

// check compares a claim with what was said, and tells that.
func (c *claim) check(v *statusView) (said, why string, ok bool) {
	sa := v.of(c.spi)
	switch {
	case c.finding != "":
		said = "no SA"
		if sa != nil {
			said = sa.Verdict
		}
		if v.finds(c.finding) {
			said += ", finding " + c.finding
		}
		return said, "", sa == nil && v.finds(c.finding)
	case sa == nil:
		return "nothing", "", false
	}
	said = sa.Verdict
	if len(sa.Unchecked) > 0 && (said == "UNKNOWN" || strings.HasPrefix(string(c.truth), "nobody")) {
		said += ", “not checked: " + strings.Join(sa.Unchecked, "; ") + "”"
	}
	return said, sa.Why, sa.Verdict == c.verdict
}

// forKernel is the claim as this kernel has it.
func (c claim) forKernel(t *testing.T) claim {
	if c.old != nil && strings.HasPrefix(read(t, "/proc/sys/kernel/osrelease"), "6.1.") {
		old := *c.old
		old.of, old.host, old.spi, old.out = c.of, c.host, c.spi, c.out
		return old
	}
	return c
}

// comeToRest waits until all that was sent has been received or lost.
func (l *nicLab) comeToRest(t *testing.T) {
	t.Helper()
	for start, last := time.Now(), ""; ; time.Sleep(rest) {
		now := ""
		for _, h := range l.Hosts() {
			for s, err := range l.kernel[h].States(context.Background(), xfrm.StateFilter{}) {
				if err != nil {
					t.Fatal(err)
				}
				now += fmt.Sprintln(s.ID(), s.Current, s.Stats)
			}
		}
		if now == last {
			return
		}
		if last = now; time.Since(start) > untilThere {
			t.Fatalf("does not come to rest: %s", now)
		}
	}
}
