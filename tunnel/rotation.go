package tunnel

import (
	"fmt"
	"math"
	"time"

	"espalier/config"
)

// Rotation is when SAs are due to be replaced: at whichever comes first.
type Rotation struct {
	// Every is a time that is no longer than any limit of the file or sequence numbers last at line
	// rate. 0: never by time; nanoseconds.
	Every time.Duration `json:"every,omitempty"`
	Share float64       `json:"share,omitempty"` // of the sequence numbers, 0 to 1
}

const (
	// assumedSpeed is that of links that do not tell theirs, in Mb/s.
	assumedSpeed = 100_000
	// framing is what Ethernet adds to an IP packet: preamble, header, FCS, gap.
	framing = 8 + 14 + 4 + 12
	// usualMTU is how long packets are that come from elsewhere than a network of long frames.
	usualMTU = 1500
	// leastEvery is the shortest time between two rotations: they take some themselves.
	leastEvery = time.Minute
)

// rotation finds out when the SAs of a pair are due: by the time that the file gives, by what is left
// of the soft limits and of the sequence numbers at line rate. false: they would be at an end before.
func (m *maker) rotation(t *config.Tunnel, p *Pair, sides *[2]side, esn bool) (r Rotation, ok bool) {
	if t.Rotate.Every == config.Never {
		return r, true // only with ESN and without limits: package config sees to that
	}
	fast := &sides[0]
	if sides[1].speed() > fast.speed() {
		fast = &sides[1]
	}
	packets := perSecond(fast.speed(), fast.frame())
	bytes := perSecond(fast.speed(), fast.device.MTU) * float64(fast.device.MTU)
	r = Rotation{Every: time.Duration(t.Rotate.Every), Share: float64(t.Rotate.AtMostShare) / 100}
	why := "as the file says"
	sooner := func(after float64, because string) {
		if after >= r.Every.Seconds() {
			return
		}
		r.Every, why = time.Duration(math.Floor(after))*time.Second, because
	}
	limits := t.Lifetime.Limits()
	at := fmt.Sprintf("at the line rate of %s, %s", fast.device.Name, fast.speedWords())
	if limits.SoftTime > 0 {
		sooner(limits.SoftTime.Seconds(), "the soft limit of the lifetime")
	}
	if limits.SoftBytes > 0 {
		sooner(float64(limits.SoftBytes)/bytes, fmt.Sprintf("%s last no longer %s", t.Lifetime.Soft.Bytes, at))
	}
	if limits.SoftPackets > 0 {
		sooner(float64(limits.SoftPackets)/packets, fmt.Sprintf("%d packets last no longer %s", limits.SoftPackets, at))
	}
	numbers := math.Exp2(32)
	if esn {
		numbers = math.Exp2(64)
	}
	sooner(r.Share*numbers/packets, fmt.Sprintf("%s of the sequence numbers last no longer %s, in packets of %d bytes", t.Rotate.AtMostShare, at, fast.frame()))
	if r.Every < leastEvery {
		what := fmt.Sprintf("SAs would have to be rotated every %s: %s", r.Every, why)
		if esn {
			m.problem(t.Place("lifetime"), what, "raise the limit")
		} else {
			m.problem(t.Place("esn"), what, "write esn: on")
		}
		return r, false
	}
	if !m.timer(t, esn) {
		return r, false
	}
	if why != "as the file says" {
		p.Choices = append(p.Choices, Choice{"rotate", config.Duration(r.Every).String(), why})
	}
	return r, true
}

// timer reports whether somebody will rotate the SAs. Without, those without ESN would end while
// nobody looks, and that is told.
func (m *maker) timer(t *config.Tunnel, esn bool) bool {
	here := m.opt.Here
	for i := range m.plan.Hosts {
		if here == nil && m.plan.Hosts[i].SSH == (config.SSH{}) {
			here = m.plan.Hosts[i].Facts
		}
	}
	if esn || here == nil || here.Timer.Can != No {
		return true
	}
	why := reason("no timer can be installed here", here.Timer)
	m.problem(t.Place("esn"), "without ESN sequence numbers end, and nobody would rotate the SAs: "+why, "write esn: on")
	return false
}

// speed of the link in Mb/s, or what is assumed.
func (s *side) speed() uint32 {
	if s.device.Speed == 0 {
		return assumedSpeed
	}
	return s.device.Speed
}

func (s *side) speedWords() string {
	text := fmt.Sprintf("%g Gb/s", float64(s.speed())/1000)
	if s.device.Speed == 0 {
		text += " for want of knowing"
	}
	return text
}

// frame is the length of packets that sequence numbers are reckoned with, in bytes: what most of a busy
// link's traffic has, also where longer ones would pass.
func (s *side) frame() int { return min(s.device.MTU, usualMTU) }

// perSecond is how many packets of a length, in bytes, go by a link of so many Mb/s.
func perSecond(speed uint32, length int) float64 {
	return float64(speed) * 1e6 / 8 / float64(max(length, 576)+framing)
}
