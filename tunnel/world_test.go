package tunnel_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/config"
	"espalier/tunnel"
)

const origin = "db1:/etc/tunnels.yaml"

var yes, no = tunnel.Answer{Can: tunnel.Yes}, func(why string) tunnel.Answer { return tunnel.Answer{Can: tunnel.No, Why: why} }

// kernelHost is a host whose kernel does ESP, with a NIC that has some addresses and offloads nothing.
// The first host made is the one that commands are given on; the others are root@NAME.
func kernelHost(name, dev string, addresses ...string) tunnel.Host {
	d := tunnel.Device{
		Name: dev, Index: 4, MTU: 1500, Speed: 25_000, Driver: "e1000e", Up: true,
		Crypto: no(dev + " (e1000e) has no esp-hw-offload"), Packet: no(dev + " (e1000e) has no esp-hw-offload"),
	}
	for _, a := range addresses {
		bits := 24
		if strings.Contains(a, ":") {
			bits = 64
		}
		d.Addresses = append(d.Addresses, netip.PrefixFrom(netip.MustParseAddr(a), bits))
	}
	h := tunnel.Host{
		Name: "root@" + name, SSH: config.SSH{To: "root@" + name},
		Facts: &tunnel.Facts{
			Hostname: name, BootID: "boot of " + name, NetNS: 1, Kernel: "6.13.0", Devices: []tunnel.Device{d}, Boot: yes, Timer: yes,
			Engines: []tunnel.Engine{{
				Name: "kernel", ESP: yes, ESP6: yes, ESN: yes, UDP: yes, Direction: yes, PCPU: yes, MaxWindow: 4096, Lanes: 8,
			}},
		},
	}
	return h
}

// here makes a host the one that commands are given on.
func here(h tunnel.Host) tunnel.Host {
	h.Name, h.SSH = h.Facts.Hostname, config.SSH{}
	return h
}

// userspaceHost is one whose kernel does no ESP, and where a device runs.
func userspaceHost(name, dev string, queues int, addresses ...string) tunnel.Host {
	h := kernelHost(name, dev, addresses...)
	h.Facts.Engines[0].ESP, h.Facts.Engines[0].ESP6 = no("kernel built without INET_ESP"), no("kernel built without INET6_ESP")
	h.Facts.Engines = append(h.Facts.Engines, tunnel.Engine{
		Name: "unix:/run/espalier/1/" + dev + ".sock", Device: dev, ESP: yes, ESP6: yes, ESN: yes, UDP: yes, Direction: yes, PCPU: yes, MaxWindow: 4096, Lanes: queues,
	})
	return h
}

// offloading gives the NIC crypto offload, and packet offload as it says.
func offloading(h tunnel.Host, packet tunnel.Answer, lacks ...tunnel.Lack) tunnel.Host {
	d := &h.Facts.Devices[0]
	d.Driver, d.Crypto, d.Packet, d.Lacks = "mlx5_core", yes, packet, lacks
	return h
}

func parse(t testing.TB, text string) *config.File {
	t.Helper()
	f, err := config.Parse("tunnels.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustMake(t testing.TB, f *config.File, hosts []tunnel.Host, opt tunnel.Options) *tunnel.Plan {
	t.Helper()
	if opt.Origin == "" {
		opt.Origin = origin
	}
	p, err := tunnel.Make(f, hosts, opt)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// random bytes that are the same each time.
func random(seed uint64) *rand.ChaCha8 {
	var s [32]byte
	copy(s[:], fmt.Sprint(seed))
	return rand.NewChaCha8(s)
}

// applied are the hosts once a plan has been carried out on them, as they tell it: by way of JSON.
func applied(t testing.TB, p *tunnel.Plan, seed uint64) []tunnel.Host {
	t.Helper()
	if err := p.Fill(random(seed)); err != nil {
		t.Fatal(err)
	}
	hosts := slices.Clone(p.Hosts)
	for i := range hosts {
		b, err := json.Marshal(hosts[i].Facts)
		if err != nil {
			t.Fatal(err)
		}
		hosts[i].Facts = new(tunnel.Facts)
		if err := json.Unmarshal(b, hosts[i].Facts); err != nil {
			t.Fatal(err)
		}
		facts := hosts[i].Facts
		given := map[string]bool{}
		var was, stay []tunnel.Owned
		for e := range p.EndsOf(i) {
			given[e.Former+" "+e.Remote.String()] = true
		}
		for _, o := range facts.Owned {
			changes := false
			for e, pair := range p.EndsOf(i) {
				changes = changes || (o.Tunnel == pair.Tunnel || o.Tunnel == e.Former) && o.Local == e.Local && o.Remote == e.Remote
			}
			if changes {
				was = append(was, o)
			} else {
				stay = append(stay, o)
			}
		}
		facts.Owned = stay
		for e, pair := range p.EndsOf(i) {
			carryOut(facts, e, pair, func() (had tunnel.Owned) {
				for _, o := range was {
					if o.Tunnel == cmp.Or(e.Former, pair.Tunnel) && o.Local == e.Local && o.Remote == e.Remote && (e.Former != "" || !given[o.Tunnel+" "+e.Remote.String()]) {
						had = o
					}
				}
				return had
			}())
		}
	}
	return hosts
}

// carryOut changes what a host has of a pair, of which it had was.
func carryOut(f *tunnel.Facts, e *tunnel.End, p *tunnel.Pair, was tunnel.Owned) {
	f.Lost = nil
	engine := f.Engine(e.Engine)
	add := func(sas []tunnel.SA) (ids []tunnel.SAID) {
		for i := range sas {
			live := liveOf(&sas[i])
			engine.SAs, ids = append(engine.SAs, live), append(ids, live.SAID)
		}
		return ids
	}
	now := tunnel.Owned{
		Tunnel: p.Tunnel, Origin: origin, Local: e.Local, Remote: e.Remote, Engine: e.Engine, Device: e.Device,
		Policies: e.Policies, Rotate: p.Rotate, Since: time.Unix(1_000_000, 0).UTC(),
		Inbound: was.Inbound, Outbound: was.Outbound,
	}
	if in, out := add(e.Inbound), add(e.Outbound); len(out) > 0 {
		now.Inbound, now.Outbound = in, out
	}
	same := func(a, b *tunnel.Policy) bool {
		return a.Selector == b.Selector && a.Direction == b.Direction && a.Mark == b.Mark && a.IfID == b.IfID
	}
	drop := func(p *tunnel.Policy) {
		engine.Policies = slices.DeleteFunc(engine.Policies, func(l tunnel.LivePolicy) bool { return same(&l.Policy, p) })
	}
	if p.Action != tunnel.Remove {
		for i := range e.Policies {
			drop(&e.Policies[i])
			live := tunnel.LivePolicy{Policy: e.Policies[i]}
			live.Processing = slices.Clone(live.Processing)
			engine.Policies = append(engine.Policies, live)
		}
	}
	for i := range e.Gone {
		drop(&e.Gone[i])
	}
	engine.SAs = slices.DeleteFunc(engine.SAs, func(l tunnel.LiveSA) bool { return slices.Contains(e.Old, l.SAID) })
	if p.Action != tunnel.Remove {
		f.Owned = append(f.Owned, now)
	}
}

// liveOf is what an engine that takes everything gives back.
func liveOf(sa *tunnel.SA) tunnel.LiveSA {
	return tunnel.LiveSA{
		SAID: tunnel.SAID{SAID: sa.ID(), Src: sa.Src, Mark: sa.Mark}, Mode: sa.Mode, Direction: sa.Direction, RequestID: sa.RequestID,
		KeyBits: uint32(sa.Key.Len()-4) * 8, ICVBits: uint32(sa.ICVBits), ESN: sa.ESN, Window: sa.Window, Encap: sa.Encap, Selector: sa.Selector,
		Offload: sa.Offload, Limits: sa.Limits, OutputMark: sa.OutputMark, IfID: sa.IfID, CPU: sa.CPU,
	}
}

// actionsOf are those of a plan's pairs.
func actionsOf(p *tunnel.Plan) (list []tunnel.Action) {
	for i := range p.Pairs {
		list = append(list, p.Pairs[i].Action)
	}
	return list
}

// choice is what was chosen for a setting; "" if nothing was.
func choice(p *tunnel.Pair, setting string) (value, why string) {
	for _, c := range p.Choices {
		if c.Setting == setting {
			return c.Value, c.Why
		}
	}
	return "", ""
}
