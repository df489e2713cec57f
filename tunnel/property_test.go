package tunnel_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"espalier/config"
	"espalier/ipsec"
	"espalier/tunnel"
)

// Whatever is planned, both ends of a pair are each other's mirror image, nothing is used twice, and
// once it is there nothing more is to be done.
func TestMirror(t *testing.T) {
	planned := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 8))
		text, hosts := someFile(r)
		f, err := config.Parse("random.yaml", []byte(text))
		if err != nil {
			continue // what cannot be had together
		}
		p, err := tunnel.Make(f, hosts, tunnel.Options{Origin: origin})
		if err != nil {
			if problems := (config.Problems{}); !errors.As(err, &problems) {
				t.Fatalf("%v\n%s", err, text)
			}
			continue
		}
		planned++
		again := applied(t, p, seed)
		checkPlan(t, p)
		if next := mustMake(t, f, again, tunnel.Options{}); next.Changes() {
			t.Errorf("%v %q once it is there", actionsOf(next), next.Pairs[0].Why)
		}
		rotated := mustMake(t, f, again, tunnel.Options{Kind: tunnel.Rotate})
		after := applied(t, rotated, seed+1)
		checkPlan(t, rotated)
		down := mustMake(t, f, after, tunnel.Options{Kind: tunnel.Down})
		for _, h := range applied(t, down, seed) {
			for _, e := range h.Facts.Engines {
				if len(e.SAs) > 0 || len(e.Policies) > 0 || len(h.Facts.Owned) > 0 {
					t.Errorf("%s is left with %d SAs and %d policies", h.Name, len(e.SAs), len(e.Policies))
				}
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, text)
		}
	}
	if planned < 15 {
		t.Errorf("only %d files could be planned", planned)
	}
}

// someFile makes a file and hosts for it, which may or may not go together.
func someFile(r *rand.Rand) (string, []tunnel.Host) {
	pick := func(options ...string) string { return options[r.IntN(len(options))] }
	n := 2
	if r.IntN(3) == 0 {
		n = 3 + r.IntN(2)
	}
	ipv6, subnets := r.IntN(3) == 0, r.IntN(3) == 0
	var hosts []tunnel.Host
	var b strings.Builder
	b.WriteString("tunnels:\n")
	for k := range 1 + r.IntN(2) {
		fmt.Fprintf(&b, "  - name: t%d\n    hosts:\n", k)
		for i := range n {
			address, subnet := fmt.Sprintf("192.0.2.%d", i+1), fmt.Sprintf("10.%d.0.0/16", 10*k+i)
			if ipv6 {
				address, subnet = fmt.Sprintf("2001:db8::%d", i+1), subnet+fmt.Sprintf(", \"2001:db8:%d::/48\"", 10*k+i+1)
			}
			fmt.Fprintf(&b, "      - {address: %q, dev: p4p1, ssh: root@h%d", address, i)
			if subnets {
				fmt.Fprintf(&b, ", subnets: [%s]", subnet)
			}
			b.WriteString("}\n")
			if k > 0 {
				continue
			}
			h := kernelHost(fmt.Sprintf("h%d", i), "p4p1", address)
			if r.IntN(3) == 0 {
				h = userspaceHost(fmt.Sprintf("h%d", i), "p4p1", r.IntN(5), address)
			}
			if r.IntN(3) == 0 {
				h = offloading(h, tunnel.Answer{Can: tunnel.Can(pick("yes", "no", "unknown"))}, [][]tunnel.Lack{nil, {tunnel.LacksESN}, {tunnel.LacksReceiving, tunnel.LacksTunnel}}[r.IntN(3)]...)
			}
			if r.IntN(4) == 0 {
				h.Facts.Engines[0].Direction, h.Facts.Engines[0].PCPU = no("old"), no("old")
			}
			hosts = append(hosts, h)
		}
		if k == 0 {
			b.WriteString(pick("", "    selectors: [tcp/80]\n", "    selectors: [icmpv6, icmp]\n", "    selectors: [udp, {protocol: tcp, ports: [80, 443], at: 192.0.2.1}]\n"))
		} else {
			b.WriteString("    selectors: [sctp]\n")
		}
		for _, setting := range []string{
			pick("", "", "bypass: [tcp/22]"), pick("", "", "encap: udp"), pick("", "esn: on", "esn: off"), pick("", "window: 64"), pick("", "key-size: 128"),
			pick("", "lifetime: {time: 4h, packets: 1000000000}"), pick("", "", "mark: 0x10/0xff"), pick("", "", "if_id: 5"), pick("", "", "output-mark: 3"),
			pick("", "", "engine: kernel", "engine: userspace"), pick("", "offload: crypto", "offload: packet", "offload: require", "offload: no"),
			pick("", "sas: 1", "sas: 3", "sas: per-cpu", "sas: ports"),
		} {
			if setting != "" && r.IntN(6) == 0 {
				b.WriteString("    " + setting + "\n")
			}
		}
	}
	return b.String(), hosts
}

// checkPlan checks a plan that is filled.
func checkPlan(t *testing.T, p *tunnel.Plan) {
	t.Helper()
	type received struct {
		host int
		id   ipsec.SAID
	}
	spis := map[received]bool{}
	keys := map[string]bool{}
	reqids := map[uint32]int{}
	type at struct {
		host   int
		engine string
		sel    ipsec.Selector
		dir    ipsec.Direction
		mark   config.Mark
		ifID   uint32
	}
	policies := map[at]bool{}
	for n := range p.Pairs {
		pair := &p.Pairs[n]
		if pair.Action == tunnel.Keep {
			continue
		}
		for i := range pair.Ends {
			me, peer := &pair.Ends[i], &pair.Ends[1-i]
			if me.Local != peer.Remote || len(me.Outbound) == 0 || len(me.Outbound) != len(peer.Inbound) {
				t.Errorf("%s has %d SAs out, %s %d in", me.Local, len(me.Outbound), peer.Local, len(peer.Inbound))
				return
			}
			for k := range me.Outbound {
				out, in := &me.Outbound[k], &peer.Inbound[k]
				same := out.Src == me.Local && out.Dst == peer.Local && out.Src == in.Src && out.Dst == in.Dst && out.SPI == in.SPI && out.Mode == in.Mode && out.RequestID == in.RequestID &&
					out.Key.Equal(in.Key) && out.ICVBits == 128 && in.ICVBits == 128 && out.ESN == in.ESN && (out.Encap == nil) == (in.Encap == nil) && out.Limits == in.Limits && out.IfID == in.IfID
				if !same {
					t.Errorf("no mirror: %+v %+v", out, in)
				}
				if in.Window == 0 || out.Direction == ipsec.Outbound && out.Window != 0 || out.Direction == ipsec.Inbound || in.Direction == ipsec.Outbound ||
					out.Direction == ipsec.AnyDirection && out.ESN && out.Window == 0 || out.CPU != nil && out.Direction != ipsec.Outbound {
					t.Errorf("windows and directions: %+v %+v", out, in)
				}
				for _, one := range []struct {
					sa  *tunnel.SA
					end *tunnel.End
				}{{out, me}, {in, peer}} {
					if strings.HasPrefix(one.end.Engine, "unix:") && (one.sa.Offload.Mode != ipsec.NoOffload || one.sa.Mark.Mask != 0 || one.sa.OutputMark.Mask != 0 || one.sa.IfID != 0) {
						t.Errorf("the device cannot have %+v", one.sa)
					}
				}
				id, key := received{peer.Host, out.ID()}, string(out.Key.ExposeSecretBytes())
				if spis[id] || keys[key] {
					t.Errorf("SPI %s or key twice", out.SPI)
				}
				spis[id], keys[key] = true, true
				if by, used := reqids[out.RequestID]; used && by != n {
					t.Errorf("reqid %d of two pairs", out.RequestID)
				}
				reqids[out.RequestID] = n
			}
			for k := range me.Policies {
				mine := &me.Policies[k]
				id := at{me.Host, me.Engine, mine.Selector, mine.Direction, mine.Mark, mine.IfID}
				if policies[id] {
					t.Errorf("policy %+v twice", mine)
				}
				policies[id] = true
				if icmp := mine.Selector.Protocol == 58 && mine.Action == ipsec.Bypass && !mine.Selector.SrcPort.Any(); icmp != (mine.Priority < 1000) {
					t.Errorf("priority %d of %s", mine.Priority, mine.Selector)
				}
				if mine.Direction != ipsec.Outbound {
					continue
				}
				for _, d := range []ipsec.Direction{ipsec.Inbound, ipsec.Forward} {
					mirrored := slices.ContainsFunc(peer.Policies, func(other tunnel.Policy) bool {
						return other.Direction == d && other.Selector == mine.Selector && other.Priority == mine.Priority && other.Action == mine.Action &&
							other.Mark == mine.Mark && other.IfID == mine.IfID && slices.Equal(other.Processing, mine.Processing)
					})
					if mode := me.Outbound[0].Mode; mirrored != (d == ipsec.Inbound || mode == ipsec.Tunnel) {
						t.Errorf("policy %s of %s: %s at %s: %v", mine.Selector, me.Local, d, peer.Local, mirrored)
					}
				}
			}
		}
	}
}
