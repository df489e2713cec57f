package config

import (
	"fmt"
	"time"
)

// Defaults of what is not said.
const (
	defaultKeySize     = 256
	defaultPort        = 4500 // RFC 3948 §2.1
	defaultSoft        = Percent(80)
	defaultAtMostShare = Percent(50)
	defaultEvery       = Duration(8 * time.Hour)
)

// checker makes of what was written what is meant, and finds what cannot be meant.
type checker struct {
	file     *File
	places   places
	problems Problems
	told     map[Position]bool // of the problems
	entries  int               // of all pairs
}

// problem tells of a setting of what p is the place of.
func (c *checker) problem(p place, setting, what, instead string) {
	at := p.of(setting)
	c.problems = append(c.problems, ProblemAt(c.file.Name, at, what, instead))
	c.told[at] = true
}

// given reports whether a setting is there, and could be read.
func (c *checker) given(p place, setting string) bool {
	at, ok := p.in[join(p.path, setting)]
	return ok && !c.told[at]
}

func (c *checker) resolve() {
	f := c.file
	f.Defaults = nil // they are in the tunnels
	if c.given(place{c.places, ""}, "tunnels") && len(f.Tunnels) == 0 {
		c.problem(place{c.places, ""}, "tunnels", "there are no tunnels", "see espalier config example; what was applied of this file, espalier down takes away")
	}
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		t.place = place{c.places, fmt.Sprintf("tunnels[%d]", i)}
		for j := range t.Hosts {
			t.Hosts[j].place = place{c.places, fmt.Sprintf("%s.hosts[%d]", t.place.path, j)}
		}
	}
	c.names()
	c.sameHosts()
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		t.fillIn()
		c.limits(t)
		c.impossible(t)
		if !c.hosts(t) || !c.traffic(t) {
			continue
		}
		c.subnets(t)
		c.pairs(t)
	}
	c.requestIDs()
	c.overlaps()
}

// fillIn puts the defaults of espalier where nothing was said.
func (t *Tunnel) fillIn() {
	if t.Mode == "" {
		t.Mode = Transport
		if t.hasSubnets() {
			t.Mode = TunnelMode
		}
	}
	if t.Encap.Type == "" {
		t.Encap.Type = NoEncap
	}
	if t.Encap.Type == UDPEncap && t.Encap.Port == 0 {
		t.Encap.Port = defaultPort
	}
	orElse(&t.ESN, Auto)
	orElse(&t.Engine, AnyEngine)
	orElse(&t.Offload, AutoOffload)
	orElse(&t.KeySize, defaultKeySize)
	for i := range t.Hosts {
		orElse(&t.Hosts[i].Sudo, Auto)
	}
	t.Lifetime.fillIn()
	if t.Rotate.Every == 0 {
		t.Rotate.Every = defaultEvery
		if soft := t.Lifetime.Soft.Time; soft > 0 && soft < defaultEvery {
			t.Rotate.Every = soft
		}
	}
	if t.Rotate.Every != Never {
		orElse(&t.Rotate.AtMostShare, defaultAtMostShare)
	}
}

// fillIn makes the soft limits numbers.
func (l *Lifetime) fillIn() {
	share := l.Soft.Share
	l.Soft.Share = 0
	orElse(&share, defaultSoft)
	if l.Time > 0 {
		orElse(&l.Soft.Time, max(Duration(share.of(uint64(l.Time)/1e9)), 1)*Duration(time.Second))
	}
	bytes := Bytes(share.of(uint64(l.Bytes)))
	for _, unit := range []Bytes{1 << 40, 1 << 30, 1 << 20} {
		if bytes > 1000*unit {
			bytes -= bytes % unit // reads better
			break
		}
	}
	orElse(&l.Soft.Bytes, bytes)
	orElse(&l.Soft.Packets, share.of(l.Packets))
}

func orElse[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

func (t *Tunnel) hasSubnets() bool {
	for _, h := range t.Hosts {
		if len(h.Subnets) > 0 {
			return true
		}
	}
	return false
}
