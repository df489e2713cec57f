package config

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"espalier/ipsec"
)

// Pair is two hosts of a tunnel that have traffic to protect.
type Pair struct {
	A, B   *Host  // in the order of the file, of the tunnel's hosts
	Lanes  []Lane // at least one
	Bypass []Entry
}

// Lane is the part of a pair's traffic that shares SAs. There is one, or with SpreadPorts one for
// each port.
type Lane struct {
	// RequestID ties policies and SAs, in both directions and on both hosts (Linux reqid). It is the
	// same each time: see [RequestID]. What hosts have of the traffic by another one keeps that.
	RequestID uint32
	Protect   []Entry
}

// Entry is one entry of an SPD, seen from A to B. From B to A it is the mirror image ([Mirror]).
type Entry struct {
	Selector ipsec.Selector
	// Priority puts an entry before all that are wider, as the lower number (RFC 4301 §4.4.1: the SPD
	// is ordered). It is 1000 or more, so that there is room before all of them. Of two with the same
	// one the tunnel that stands first in the file wins.
	Priority uint32
}

// Mirror is the selector of the other direction.
func Mirror(s ipsec.Selector) ipsec.Selector {
	s.Src, s.Dst = s.Dst, s.Src
	s.SrcPort, s.DstPort = s.DstPort, s.SrcPort
	return s
}

// RequestID is a number for the traffic of two hosts in a tunnel that is the same each time, on
// both hosts and whatever else changes in the file: of SHA-256 over "espalier reqid 1", the name of
// the tunnel, the lower and the higher address as text, and the lane, with a zero byte before each
// but the first, the first 30 bits, plus 2³⁰. The lane is "" but for SpreadPorts, where it is a
// [Traffic] with one port as text. Numbers from 2³⁰ leave alone those which people, IKE daemons and
// kernels (af_key counts from 2¹⁴) begin with.
func RequestID(tunnel string, a, b netip.Addr, lane string) uint32 {
	if b.Less(a) {
		a, b = b, a
	}
	sum := sha256.Sum256([]byte("espalier reqid 1\x00" + tunnel + "\x00" + a.String() + "\x00" + b.String() + "\x00" + lane))
	return binary.BigEndian.Uint32(sum[:])>>2 | 1<<30
}

// mostEntries of a file: hosts have as many policies, times two or three.
const mostEntries = 16384

// pairs lays a tunnel out.
func (c *checker) pairs(t *Tunnel) {
	for i := range t.Hosts {
		for j := range t.Hosts[i+1:] {
			a, b := &t.Hosts[i], &t.Hosts[i+1+j]
			if !a.Address.IsValid() || !b.Address.IsValid() || a.Address == b.Address || len(t.Hosts) > mostHosts || c.entries > mostEntries {
				continue
			}
			if c.entries += t.mostEntries(a, b); c.entries > mostEntries {
				c.problem(t.place, "name", fmt.Sprintf("from here on there are more than %d policies", mostEntries), "use fewer selectors, hosts or subnets, or several files")
				return
			}
			p := Pair{A: a, B: b, Lanes: t.lanes(a, b)}
			for _, b := range t.Bypass {
				p.Bypass = append(p.Bypass, p.entries(b)...)
			}
			if len(p.Lanes) > 0 {
				t.Pairs = append(t.Pairs, p)
			}
		}
	}
}

// mostEntries is how many two hosts may get, if no at and no family leaves any out.
func (t *Tunnel) mostEntries(a, b *Host) int {
	traffics := 0
	for _, list := range [][]Traffic{t.Selectors, t.Bypass} {
		for _, s := range list {
			traffics += max(2*len(s.Ports), 1)
		}
	}
	return max(traffics, 1) * max(len(a.Subnets), 1) * max(len(b.Subnets), 1)
}

func (t *Tunnel) lanes(a, b *Host) []Lane {
	p := &Pair{A: a, B: b}
	if t.SAs.By == SpreadPorts {
		var lanes []Lane
		for _, s := range t.Selectors {
			for _, port := range s.Ports {
				one := Traffic{s.Protocol, []uint16{port}, s.At}
				if entries := p.entries(one); len(entries) > 0 {
					lanes = append(lanes, Lane{RequestID(t.Name, a.Address, b.Address, one.String()), entries})
				}
			}
		}
		return lanes
	}
	var entries []Entry
	for _, s := range t.Selectors {
		entries = append(entries, p.entries(s)...)
	}
	if len(t.Selectors) == 0 {
		entries = p.entries(Traffic{})
	}
	if len(entries) == 0 {
		return nil
	}
	return []Lane{{RequestID(t.Name, a.Address, b.Address, ""), entries}}
}

// entries are those for some traffic between the two.
func (p *Pair) entries(t Traffic) (entries []Entry) {
	for _, src := range p.A.networks() {
		for _, dst := range p.B.networks() {
			is4 := src.Addr().Is4()
			if is4 != dst.Addr().Is4() || t.Protocol == 1 && !is4 || t.Protocol == 58 && is4 {
				continue
			}
			s := ipsec.Selector{Src: src, Dst: dst, Protocol: uint8(t.Protocol)}
			if len(t.Ports) == 0 {
				entries = append(entries, Entry{s, priority(&s)})
			}
			for _, port := range t.Ports {
				if t.At != p.A.Address {
					to := s
					to.DstPort = ipsec.Port(port)
					if !t.At.IsValid() || t.At == p.B.Address {
						entries = append(entries, Entry{to, priority(&to)})
					}
				}
				if !t.At.IsValid() || t.At == p.A.Address {
					from := s
					from.SrcPort = ipsec.Port(port)
					entries = append(entries, Entry{from, priority(&from)})
				}
			}
		}
	}
	return entries
}

// around is what is protected around a bypass; the bypass itself if there is nothing.
func (p *Pair) around(bypass ipsec.Selector) ipsec.Selector {
	for _, l := range p.Lanes {
		for _, e := range l.Protect {
			if relate(&bypass, &e.Selector) == within {
				return e.Selector
			}
		}
	}
	return bypass
}

// networks are what the host is protected for: its subnets, or itself.
func (h *Host) networks() []netip.Prefix {
	if len(h.Subnets) > 0 {
		var valid []netip.Prefix
		for _, s := range h.Subnets {
			if s.IsValid() {
				valid = append(valid, s)
			}
		}
		return valid
	}
	if !h.Address.IsValid() {
		return nil
	}
	return []netip.Prefix{netip.PrefixFrom(h.Address, h.Address.BitLen())}
}

// priority is lower for a selector than for any other of the family that it lies within.
func priority(s *ipsec.Selector) uint32 {
	p := 1000 + 4*uint32(2*s.Src.Addr().BitLen()-s.Src.Bits()-s.Dst.Bits())
	if s.Protocol == 0 {
		p += 2
	}
	if !s.HasPorts() {
		p++
	}
	return p
}

// requestIDs looks for two of the same number, which the hash allows and nobody will see.
func (c *checker) requestIDs() {
	first := map[uint32]*Tunnel{}
	for i := range c.file.Tunnels {
		t := &c.file.Tunnels[i]
		for _, p := range t.Pairs {
			for _, l := range p.Lanes {
				if before := first[l.RequestID]; before != nil && before != t {
					c.problem(t.place, "name", fmt.Sprintf("tunnel %s would have the same reqid %s as %s has", t.Name, strconv.FormatUint(uint64(l.RequestID), 10), before.Name), "give it another name")
				}
				first[l.RequestID] = t
			}
		}
	}
}
