package peer

import (
	"strconv"
	"strings"
	"testing"

	"espalier/test/lab"
)

// badCase is a kind of packet that the device must not deliver.
type badCase struct {
	name   string
	reason string // of the drops; "": ignored without a word
	tunnel bool
	net    int             // tunnel mode: which inner addresses
	words  string          // more of the SA
	on     func(path) bool // nil: all paths
	// foreign says that the SA carries nothing at all on this path; another one then shows
	// that the device is well.
	foreign bool
	// send makes the ESP packets. Those it makes by good are delivered, in the order in which
	// it makes them; all others are bad.
	send func(s *sender) [][]byte
}

func only4(p path) bool   { return !p.v6 }
func only6(p path) bool   { return p.v6 }
func onlyUDP(p path) bool { return p.udp }
func onlyRaw(p path) bool { return !p.udp }

// runBad plays the cases on all paths. policies are those of host B.
func runBad(t *testing.T, cases []badCase, policies func(v6 bool) string) {
	r := newRig(t)
	for _, v6 := range []bool{false, true} {
		if policies != nil {
			r.B.Batch(policies(v6))
		}
	}
	for _, p := range paths {
		control := r.newSender(p, false)
		script := []string{control.state("")}
		senders := make([]*sender, len(cases))
		for i, c := range cases {
			senders[i] = r.newSender(p, c.tunnel)
			senders[i].net = c.net
			script = append(script, senders[i].state(senders[i].shape(c.words)))
		}
		r.B.Batch(strings.Join(script, ""))
		t.Run(p.String(), func(t *testing.T) {
			for i, c := range cases {
				if c.on == nil || c.on(p) {
					t.Run(c.name, func(t *testing.T) { r.playBad(t, &c, senders[i], control) })
				}
			}
		})
	}
	r.stop()
}

// shape makes the SA what the words say of ESN, key and ICV length, and returns the others.
func (s *sender) shape(words string) string {
	switch words {
	case "128", "192":
		bits, _ := strconv.Atoi(words)
		s.Key = lab.Pair{KeyBits: bits}.Key(s.SPI)
		return ""
	case "ICV 64", "ICV 96":
		bits, _ := strconv.Atoi(words[len("ICV "):])
		s.ICVLen = bits / 8
		return ""
	}
	s.ESN = strings.Contains(words, "esn")
	return words
}

// playBad sends the bad packets, then a good one behind them on the same path: one socket's
// packets are handled in order, so that what is delivered before the good one is everything.
func (r *rig) playBad(t *testing.T, c *badCase, s, control *sender) {
	t.Cleanup(func() {
		if t.Failed() {
			r.drain()
		}
	})
	before := r.B.Drops()
	all := c.send(s)
	bad := len(all) - len(s.want)
	for _, esp := range all {
		r.send(t, s.wrap(esp))
	}
	last, want := s, s.want
	if c.foreign {
		last = control
	}
	last.want = nil
	r.send(t, s.wrap(last.good(last.next())))
	r.delivered(t, append(want, last.want...))
	if c.reason == "" {
		bad = 0
	}
	r.dropped(t, before, c.reason, bad)
}
