package guard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"espalier/ipsec"
)

// machine runs chains as the kernel does, on a packet of which it is told what the kernel
// would find out. It reads ports even from later fragments, as some kernels do.
type machine struct {
	chains map[string]*chain
	sets   map[string]*set
	pkt    []byte // from the network header
	upper  int    // offset of the upper layer
	proto  int    // -1: not known
	mark   uint32
	later  bool // IPv6: a later fragment
	isFrag bool // IPv6: there is a fragment header
}

// run returns the verdict of a chain; done is false if the packet came through it.
func (m *machine) run(t *rapid.T, name string) (kind expr.VerdictKind, done bool) {
	c := m.chains[name]
	if c == nil {
		t.Fatalf("no chain %s", name)
	}
	for _, r := range c.rules {
		v := m.match(t, r.match)
		if v == nil {
			continue
		}
		switch v.Kind {
		case expr.VerdictJump:
			if kind, done := m.run(t, v.Chain); done {
				return kind, true
			}
		case expr.VerdictGoto:
			return m.run(t, v.Chain)
		case expr.VerdictReturn:
			return 0, false
		default:
			return v.Kind, true
		}
	}
	return 0, false
}

func (m *machine) match(t *rapid.T, tests match) *expr.Verdict {
	var value []byte
	var registers [64]byte // from NFT_REG32_00 on
	for _, e := range tests {
		switch e := e.(type) {
		case *expr.Meta:
			switch e.Key {
			case expr.MetaKeyPROTOCOL:
				value = be16(unix.ETH_P_IP)
				if m.pkt[0]>>4 == 6 {
					value = be16(unix.ETH_P_IPV6)
				}
			case expr.MetaKeyL4PROTO:
				if m.proto < 0 {
					return nil
				}
				value = []byte{byte(m.proto)}
			case expr.MetaKeyMARK:
				value = binary.NativeEndian.AppendUint32(nil, m.mark)
			default:
				t.Fatalf("meta key %d", e.Key)
			}
		case *expr.Payload:
			at := int(e.Offset)
			switch e.Base {
			case expr.PayloadBaseLLHeader:
				return nil // as on a device without Ethernet header
			case expr.PayloadBaseTransportHeader:
				if m.proto < 0 {
					return nil
				}
				at += m.upper
			}
			if at+int(e.Len) > len(m.pkt) {
				return nil
			}
			value = m.pkt[at : at+int(e.Len)]
			if e.DestRegister >= unix.NFT_REG32_00 {
				copy(registers[4*(e.DestRegister-unix.NFT_REG32_00):], value)
			}
		case *expr.Exthdr:
			switch {
			case e.Flags == unix.NFT_EXTHDR_F_PRESENT:
				value = []byte{0}
				if m.isFrag {
					value = []byte{1}
				}
			case !m.isFrag:
				return nil
			default:
				value = be16(1)
				if m.later {
					value = be16(0x0801)
				}
			}
		case *expr.Bitwise:
			masked := make([]byte, len(value))
			for i := range value {
				masked[i] = value[i]&e.Mask[i] ^ e.Xor[i]
			}
			value = masked
			if e.DestRegister >= unix.NFT_REG32_00 {
				copy(registers[4*(e.DestRegister-unix.NFT_REG32_00):], value)
			}
		case *expr.Lookup:
			s := m.sets[e.SetName]
			if s == nil || e.SourceRegister != unix.NFT_REG32_00 {
				t.Fatalf("look-up in %s from register %d", e.SetName, e.SourceRegister)
			}
			if _, in := s.members[key(registers[:s.keyLen()])]; in == e.Invert {
				return nil
			}
		case *expr.Cmp:
			if len(value) != len(e.Data) {
				t.Fatalf("compare %x with %x", value, e.Data)
			}
			c := bytes.Compare(value, e.Data)
			holds := map[expr.CmpOp]bool{expr.CmpOpEq: c == 0, expr.CmpOpNeq: c != 0, expr.CmpOpGte: c >= 0, expr.CmpOpLte: c <= 0}
			if !holds[e.Op] {
				return nil
			}
		case *expr.Objref:
		case *expr.Verdict:
			return e
		default:
			t.Fatalf("expression %T", e)
		}
	}
	t.Fatal("rule without verdict")
	return nil
}

// few draws from few addresses, protocols and ports, so that policies and packets meet.
var (
	few4   = []string{"10.0.0.1", "10.0.0.2", "10.1.0.1"}
	few6   = []string{"2001:db8::1", "2001:db8::2", "2001:db8:1::1"}
	protos = []uint8{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_GRE, unix.IPPROTO_ESP, unix.IPPROTO_AH}
	few16  = []uint16{0, 8, 22, 135, 0x1222}
)

func fewEntry(t *rapid.T) entry {
	e := anyEntry(t)
	list := rapid.SampledFrom([][]string{few4, few6}).Draw(t, "addresses")
	addr := func(name string) netip.Prefix {
		a := netip.MustParseAddr(rapid.SampledFrom(list).Draw(t, name))
		bits := rapid.SampledFrom([]int{-1, -1, 0, 16, 31, a.BitLen()}).Draw(t, "bits")
		if bits < 0 {
			return netip.Prefix{}
		}
		return netip.PrefixFrom(a, bits)
	}
	port := func(name string) ipsec.PortMatch {
		return ipsec.PortMatch{Value: rapid.SampledFrom(few16).Draw(t, name), Mask: rapid.SampledFrom([]uint16{0, 0, 0xffff, 0xff00}).Draw(t, "mask")}
	}
	e.Selector = ipsec.Selector{Src: addr("src"), Dst: addr("dst"), Protocol: rapid.SampledFrom(protos).Draw(t, "proto"), SrcPort: port("sport"), DstPort: port("dport")}
	e.Priority %= 3
	return e
}

// flow is a packet in the words of the specification.
type flow struct {
	ipsec.Flow         // NoPorts: they cannot be read
	shown      bool    // the upper-layer protocol can be found
	later      bool    // later fragment
	isFrag     bool    // or any fragment
	hops       uint8   //
	mark       uint32  //
	side       *side   //
	family     *family //
}

// expected is the walk of doc.go, in other words than the rules.
func expected(f *flow, cfg *Config, entries []entry, encaps []Encap) bool {
	readable := f.shown && !f.later
	if f.family == &ipv6 && readable && !f.isFrag && f.Protocol == unix.IPPROTO_ICMPV6 && f.hops == 255 && f.SrcPort >= 133 && f.SrcPort <= 137 && !f.NoPorts {
		return true
	}
	if f.shown && f.Protocol == unix.IPPROTO_ESP {
		return true
	}
	for _, e := range encaps {
		if !f.shown || f.Protocol != unix.IPPROTO_UDP {
			continue
		}
		dst := netip.AddrPortFrom(f.Dst, f.DstPort)
		if f.side == &ingress {
			if f.Dst == e.Local.Addr() && (f.later || !f.NoPorts && dst == e.Local) {
				return true
			}
			continue
		}
		if f.Src == e.Local.Addr() && f.Dst == e.Remote.Addr() && f.mark&cfg.Mask == cfg.Mark &&
			(f.later || !f.NoPorts && f.SrcPort == e.Local.Port() && dst == e.Remote) {
			return true
		}
	}
	for _, e := range entries {
		s := e.Selector
		if !f.side.has(e.Direction) || s.Is4() && f.family != &ipv4 || s.Is6() && f.family != &ipv6 {
			continue
		}
		_, _, hasPorts := portFields(f.Protocol)
		flow := f.Flow
		flow.NoPorts = false
		if e.admits() {
			if (s.Protocol != 0 || s.HasPorts()) && !f.shown || s.HasPorts() && (f.later || f.NoPorts || !hasPorts) {
				continue
			}
			if s.Match(&flow) {
				return true
			}
			continue
		}
		if !f.shown || f.Protocol == unix.IPPROTO_AH {
			s.Protocol, s.SrcPort, s.DstPort = 0, ipsec.PortMatch{}, ipsec.PortMatch{}
		}
		flow.NoPorts = f.later && hasPorts || f.NoPorts && hasPorts
		if s.HasPorts() && s.Protocol == f.Protocol && !hasPorts {
			flow.NoPorts = true
		}
		if f.later && s.HasPorts() && s.SrcPort.Value&s.SrcPort.Mask == 0 && s.DstPort.Value&s.DstPort.Mask == 0 {
			flow.NoPorts = true
		}
		if s.Match(&flow) {
			return false
		}
	}
	return true
}

func TestRulesDoAsSpecified(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := &Config{Mark: testMark, Mask: 0xf0}
		entries := inSPDOrder(rapid.SliceOfN(rapid.Custom(fewEntry), 0, 6).Draw(t, "entries"))
		encaps := []Encap{
			{netip.MustParseAddrPort("10.0.0.1:22"), netip.MustParseAddrPort("10.0.0.2:135")},
			{netip.MustParseAddrPort("[2001:db8::1]:22"), netip.MustParseAddrPort("[2001:db8::2]:135")},
		}
		m := machine{chains: map[string]*chain{}, sets: map[string]*set{}}
		built := build(cfg, inOrder(entries, 0), encaps, nil, rapid.IntRange(1, 3).Draw(t, "sets from"))
		for i := range built.chains {
			m.chains[built.chains[i].name] = &built.chains[i]
		}
		built.sets(func(s *set) { m.sets[s.name] = s })

		f := flow{side: rapid.SampledFrom(sides[:]).Draw(t, "side"), family: rapid.SampledFrom(families[:]).Draw(t, "family")}
		list := few4
		if f.family == &ipv6 {
			list = few6
		}
		p := packet{
			src: rapid.SampledFrom(list).Draw(t, "src"), dst: rapid.SampledFrom(list).Draw(t, "dst"),
			proto: rapid.SampledFrom(protos[1:]).Draw(t, "proto"), hops: rapid.SampledFrom([]uint8{64, 255}).Draw(t, "hops"),
		}
		sport, dport := rapid.SampledFrom(few16).Draw(t, "sport"), rapid.SampledFrom(few16).Draw(t, "dport")
		// Half of the packets are aimed at an encapsulation or at a policy's ports.
		switch aim := rapid.IntRange(0, 3).Draw(t, "aim"); {
		case aim == 0:
			p.src, p.dst, p.proto, sport, dport = list[0], list[1], unix.IPPROTO_UDP, 22, 135
			if f.side == &ingress {
				p.src, p.dst, sport, dport = p.dst, p.src, dport, sport
			}
		case aim == 1 && len(entries) > 0:
			s := rapid.SampledFrom(entries).Draw(t, "at").Selector
			sport, dport = s.SrcPort.Value&s.SrcPort.Mask, s.DstPort.Value&s.DstPort.Mask
			if s.Protocol != 0 {
				p.proto = s.Protocol
			}
		}
		p.payload = ports(sport, dport)
		if p.proto == unix.IPPROTO_ICMP || p.proto == unix.IPPROTO_ICMPV6 {
			sport, dport = sport&0xff, dport&0xff
			p.payload = []byte{byte(sport), byte(dport), 0, 0}
		}
		kind := rapid.SampledFrom([]string{"whole", "first", "later", "short", "hidden"}).Draw(t, "kind")
		f.later, f.shown, f.NoPorts = kind == "later", kind != "hidden", kind == "short"
		f.isFrag = kind == "first" || kind == "later"
		if f.NoPorts {
			p.payload = nil
		}
		p.more = kind == "first"
		if f.later {
			p.fragOffset = 8
		}
		f.Src, f.Dst, f.Protocol, f.hops = netip.MustParseAddr(p.src), netip.MustParseAddr(p.dst), p.proto, p.hops
		if _, _, has := portFields(p.proto); has {
			f.SrcPort, f.DstPort = sport, dport
		}
		f.mark = rapid.SampledFrom([]uint32{0, testMark, testMark | 1, 0x50}).Draw(t, "mark")

		m.mark, m.proto, m.later, m.isFrag = f.mark, int(p.proto), f.later, f.isFrag
		if !f.shown {
			m.proto = -1
		}
		m.upper = 20
		if f.family == &ipv6 {
			m.upper = 40
			p.fragOffset, p.more = 0, false
		}
		m.pkt = p.bytes()
		verdict, done := m.run(t, f.side.hook)
		got, want := !done || verdict == expr.VerdictAccept, expected(&f, cfg, entries, encaps)
		if got != want {
			t.Fatalf("%+v\n%+v\npassed %v, want %v", f, entries, got, want)
		}
	})
}

func TestTableName(t *testing.T) {
	for device, want := range map[string]string{
		"p4p1": "espalier_p4p1", "eth0.5": "espalier_eth0.5", "br-lan_1": "espalier_br-lan_1",
		"a@b": "espalier_a/40b", "é": "espalier_/c3/a9",
	} {
		if got := tableName(device); got != want {
			t.Errorf("tableName(%q) = %q, want %q", device, got, want)
		}
	}
}

func TestCheckEncaps(t *testing.T) {
	cfg := &Config{Mark: 1, Mask: 1}
	a := netip.MustParseAddrPort
	got, err := checkEncaps(cfg, []Encap{{a("[::ffff:10.0.0.1]:1"), a("10.0.0.2:2")}, {a("[fe80::1%eth0]:1"), a("[fe80::2]:2")}})
	if err != nil || got[0].Local != a("10.0.0.1:1") || got[1].Local != a("[fe80::1]:1") {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []Encap{
		{}, {a("10.0.0.1:1"), a("[2001:db8::1]:1")}, {a("0.0.0.0:1"), a("10.0.0.1:1")}, {a("10.0.0.1:0"), a("10.0.0.2:1")},
	} {
		if _, err := checkEncaps(cfg, []Encap{bad}); err == nil {
			t.Errorf("%v accepted", bad)
		}
	}
	if _, err := checkEncaps(&Config{}, got); err == nil {
		t.Error("encapsulation without a mark accepted")
	}
}
