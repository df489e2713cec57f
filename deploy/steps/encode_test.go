package steps_test

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// Whatever the planner lays out comes back the same from the payload of a message.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		sa := someSA(r)
		payload, err := steps.EncodeSA(&sa)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		state, err := xfrm.DecodeState(payload)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got, err := steps.SAOf(state)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !got.Key.Equal(sa.Key) {
			t.Errorf("seed %d: another key", seed)
		}
		got.Key, got.Counters = sa.Key, sa.Counters
		if !reflect.DeepEqual(got, sa) {
			t.Errorf("seed %d:\n%+v\n%+v", seed, got, sa)
		}

		policy := somePolicy(r)
		if payload, err = steps.EncodePolicy(&policy); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, use := range []bool{false, true} {
			decoded, err := steps.DecodePolicy(payload, use)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			got, err := steps.PolicyOf(decoded)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			for i := range got.Processing {
				if got.Processing[i].Optional != use {
					t.Errorf("seed %d: at level use: %v, want %v", seed, got.Processing[i].Optional, use)
				}
				got.Processing[i].Optional = false
			}
			if !reflect.DeepEqual(got, policy) {
				t.Errorf("seed %d:\n%+v\n%+v", seed, got, policy)
			}
		}
	}
}

func addresses(r *rand.Rand) (a, b netip.Addr) {
	if r.IntN(2) == 0 {
		return netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	}
	return netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
}

func someMark(r *rand.Rand) (m config.Mark) {
	if r.IntN(3) == 0 {
		m.Mask = r.Uint32() | 1
		m.Value = r.Uint32() & m.Mask
	}
	return m
}

func someSA(r *rand.Rand) tunnel.SA {
	var sa tunnel.SA
	sa.Src, sa.Dst = addresses(r)
	sa.SPI, sa.Mode, sa.RequestID = ipsec.SPI(r.Uint32()|1), ipsec.Mode(r.IntN(2)), r.Uint32()
	sa.Direction = []ipsec.Direction{ipsec.AnyDirection, ipsec.Inbound, ipsec.Outbound}[r.IntN(3)]
	sa.Key, sa.ICVBits, sa.ESN = ipsec.RandomKey([]int{20, 36}[r.IntN(2)]), 128, r.IntN(2) == 0
	if sa.Direction != ipsec.Outbound {
		sa.Window = []uint32{32, 64, 4096}[r.IntN(3)]
	}
	if r.IntN(3) == 0 {
		sa.Encap = &ipsec.Encap{SrcPort: 4500, DstPort: 4501}
	}
	if r.IntN(2) == 0 && sa.Direction != ipsec.AnyDirection {
		sa.Offload = ipsec.Offload{Mode: ipsec.OffloadMode(1 + r.IntN(2)), Interface: 1 + r.IntN(9), Direction: sa.Direction}
	}
	if r.IntN(2) == 0 {
		sa.Limits = ipsec.Limits{SoftBytes: 1 << 40, HardBytes: 2 << 40, HardPackets: r.Uint64() | 1, SoftTime: time.Hour, HardTime: 2 * time.Hour}
	}
	sa.Mark, sa.OutputMark, sa.IfID = someMark(r), someMark(r), r.Uint32N(3)
	if r.IntN(2) == 0 && sa.Direction == ipsec.Outbound {
		cpu := r.Uint32N(64)
		sa.CPU = &cpu
	}
	return sa
}

func somePolicy(r *rand.Rand) tunnel.Policy {
	var p tunnel.Policy
	a, b := addresses(r)
	p.Selector = ipsec.Selector{Src: netip.PrefixFrom(a, a.BitLen()), Dst: netip.PrefixFrom(b, b.BitLen())}
	if r.IntN(2) == 0 {
		p.Selector.Protocol, p.Selector.DstPort = 6, ipsec.Port(uint16(r.Uint32()))
	}
	p.Direction, p.Priority = ipsec.Direction(1+r.IntN(3)), r.Uint32()
	p.Action, p.Mark, p.IfID = ipsec.Bypass, someMark(r), r.Uint32N(3)
	if r.IntN(3) > 0 {
		p.Action = ipsec.Protect
		one := ipsec.Processing{RequestID: r.Uint32()}
		if r.IntN(2) == 0 {
			one.Mode, one.Src, one.Dst = ipsec.Tunnel, a, b
		}
		p.Processing = []ipsec.Processing{one}
		if r.IntN(3) == 0 {
			p.Offload = ipsec.Offload{Mode: ipsec.PacketOffload, Interface: 3, Direction: p.Direction}
		}
	}
	return p
}

// Ends of pairs name the SAs in the order in which their payloads come.
func TestPairEnds(t *testing.T) {
	f, err := config.Parse("x", []byte("tunnels: [{name: db, hosts: [{address: 192.0.2.1, dev: a, ssh: r@a}, {address: 192.0.2.2, dev: a, ssh: r@b}], sas: 3, bypass: [tcp/22]}]"))
	if err != nil {
		t.Fatal(err)
	}
	yes := tunnel.Answer{Can: tunnel.Yes}
	host := func(name, address string) tunnel.Host {
		return tunnel.Host{Name: name, SSH: config.SSH{To: "r@" + name}, Facts: &tunnel.Facts{
			BootID: name, Devices: []tunnel.Device{{Name: "a", Index: 1, MTU: 1500, Addresses: []netip.Prefix{netip.MustParsePrefix(address + "/24")}}},
			Engines: []tunnel.Engine{{Name: "kernel", ESP: yes, ESN: yes, UDP: yes, PCPU: yes, Direction: yes, MaxWindow: 64, Lanes: 4}},
		}}
	}
	plan, err := tunnel.Make(f, []tunnel.Host{host("a", "192.0.2.1"), host("b", "192.0.2.2")}, tunnel.Options{Adopt: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Fill(rand.NewChaCha8([32]byte{1})); err != nil {
		t.Fatal(err)
	}
	ends, err := steps.PairEnds(plan, 1)
	if err != nil || len(ends) != 1 {
		t.Fatal(ends, err)
	}
	e := ends[0]
	if e.Tunnel != "db" || e.Action != tunnel.Create || !e.Adopt || e.Engine != "kernel" || len(e.Policies) != len(plan.Pairs[0].Ends[1].Policies) || e.Rotate.Every == 0 {
		t.Errorf("%+v", e)
	}
	for direction, ids := range map[ipsec.Direction][]tunnel.SAID{ipsec.Inbound: e.Inbound, ipsec.Outbound: e.Outbound} {
		payloads, err := steps.SAs(plan, 1, direction)
		if err != nil || len(payloads) != 3 || len(ids) != 3 {
			t.Fatal(len(payloads), len(ids), err)
		}
		for i := range payloads {
			state, err := xfrm.DecodeState(payloads[i])
			if err != nil || state.SPI != ids[i].SPI || state.Dst != ids[i].Dst || state.Src != ids[i].Src {
				t.Errorf("%v %v: %v", state, ids[i], err)
			}
		}
	}
}
