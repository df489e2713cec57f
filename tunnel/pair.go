package tunnel

import (
	"fmt"
	"strconv"

	"espalier/config"
	"espalier/ipsec"
)

// pair plans what two hosts of a tunnel are to have. false: it cannot be had, and that was told.
func (m *maker) pair(t *config.Tunnel, p *config.Pair, a, b *place) (Pair, bool) {
	sides := [2]side{{place: a, name: m.name(a.host), of: p.A}, {place: b, name: m.name(b.host), of: p.B}}
	pair := Pair{Tunnel: t.Name, Of: t, Adopt: m.opt.Adopt}
	var engines, offloads, windows, sas [2]string
	var had [2]*Owned
	ok := true
	for i := range sides {
		s := &sides[i]
		var chosen bool
		had[i] = m.known[endID{s.host, t.Name, s.of.Address, sides[1-i].of.Address}]
		if engines[i], chosen = m.chooseEngine(t, s, had[i]); !chosen {
			ok = false
		}
	}
	if !ok {
		return pair, false
	}
	esn, whyESN := chooseESN(t, &sides)
	for i := range sides {
		s := &sides[i]
		var chosen bool
		if offloads[i], chosen = m.chooseOffload(t, s, esn); !chosen {
			ok = false
		}
		windows[i], sas[i] = chooseWindow(t, s), chooseSAs(t, s)
	}
	if !ok {
		return pair, false
	}
	pair.choose("engine", &sides, engines, func(s *side) string {
		if s.engine.Device != "" {
			return "userspace"
		}
		return s.engine.Name
	})
	pair.choose("offload", &sides, offloads, func(s *side) string { return s.offload.String() })
	if whyESN != "" {
		pair.Choices = append(pair.Choices, Choice{"esn", map[bool]string{true: "on", false: "off"}[esn], whyESN})
	}
	pair.choose("window", &sides, windows, func(s *side) string { return strconv.FormatUint(uint64(s.window), 10) })
	pair.choose("sas", &sides, sas, func(s *side) string { return strconv.Itoa(len(s.cpus)) })
	pair.ESN, pair.Speed = esn, max(sides[0].speed(), sides[1].speed())
	if pair.Rotate, ok = m.rotation(t, &pair, &sides, esn); !ok {
		return pair, false
	}
	p = m.requestIDs(p, &had)
	for i := range sides {
		pair.Ends[i] = layOut(t, p, &sides, i, esn)
	}
	pair.notes(t, p, &sides)
	pair.probeNotes(&sides)
	return pair, true
}

// choose notes what was chosen for the two ends, once if it is the same.
func (p *Pair) choose(setting string, sides *[2]side, whys [2]string, value func(*side) string) {
	if whys[0] == "" && whys[1] == "" {
		return
	}
	values := [2]string{value(&sides[0]), value(&sides[1])}
	if values[0] == values[1] && (whys[0] == whys[1] || whys[1] == "") {
		p.Choices = append(p.Choices, Choice{setting, values[0], whys[0]})
		return
	}
	if values[0] == values[1] && whys[0] == "" {
		p.Choices = append(p.Choices, Choice{setting, values[0], whys[1]})
		return
	}
	for i := range sides {
		if whys[i] != "" {
			p.Choices = append(p.Choices, Choice{setting, fmt.Sprintf("%s on %s", values[i], sides[i].name), whys[i]})
		}
	}
}

// notes say what traffic will see of the tunnel.
func (p *Pair) notes(t *config.Tunnel, of *config.Pair, sides *[2]side) {
	inner := func(s *side) int {
		whole := InnerMTU(s.device.MTU, t.Mode == config.TunnelMode, of.A.Address.Is6(), t.Encap.Type == config.UDPEncap)
		if s.engine.Device != "" {
			whole = min(whole, tunMTU(s.device.MTU))
		}
		return whole
	}
	least := &sides[0]
	if inner(&sides[1]) < inner(least) {
		least = &sides[1]
	}
	if inner := inner(least); inner > 0 {
		note := fmt.Sprintf("packets of up to %d bytes pass whole (MTU %d of %s on %s)", inner, least.device.MTU, least.device.Name, least.name)
		if sides[0].device.MTU != sides[1].device.MTU {
			other := &sides[0]
			if other == least {
				other = &sides[1]
			}
			note += fmt.Sprintf("; %s of %s has %d", other.device.Name, other.name, other.device.MTU)
		}
		p.Notes = append(p.Notes, note)
	}
	for i := range sides {
		s := &sides[i]
		if !s.device.Up {
			p.Notes = append(p.Notes, fmt.Sprintf("%s of %s is down", s.device.Name, s.name))
		}
		if s.offload != ipsec.NoOffload && !s.receives {
			p.Notes = append(p.Notes, fmt.Sprintf("what %s receives is decrypted on the CPU: %s", s.name, s.device.without(LacksReceiving)))
		}
		if s.offload == ipsec.PacketOffload && of.A.Address.Is6() {
			p.Notes = append(p.Notes, fmt.Sprintf("the NIC of %s selects by itself, and may encrypt neighbour discovery between the two, too", s.name))
		}
		if t.Mark.Mask != 0 && i == 0 {
			p.Notes = append(p.Notes, fmt.Sprintf("only packets with mark %s are protected; what was decrypted gets that mark", t.Mark))
		}
	}
}

// tunMTU is the MTU of the userspace device's TUN: that of the device below, less the most that ESP adds to a
// packet, whatever the SA (docs/device.md), and what IPv6 needs at least.
func tunMTU(mtu int) int { return max(mtu-85, 1280) }

// InnerMTU is how long the packets are that ESP with AES-GCM and an ICV of 128 bits gets through a
// device whole, in bytes with their IP header, at an MTU (RFC 4303 §2, RFC 4106 §3, RFC 3948 §2.1);
// 0 if none is.
func InnerMTU(mtu int, tunnel, ipv6, udp bool) int {
	header := 20
	if ipv6 {
		header = 40
	}
	room := mtu - header - 8 - 8 - 16 // SPI and sequence number, IV, ICV
	if udp {
		room -= 8
	}
	room = room&^3 - 2 // padding, pad length and next header
	if !tunnel {
		room += header
	}
	return max(room, 0)
}
