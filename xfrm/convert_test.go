package xfrm

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"espalier/ipsec"
)

// TestStateRefusals: what ipsec cannot express, and what nobody would take.
func TestStateRefusals(t *testing.T) {
	for _, c := range []struct {
		change func(*State)
		err    error
		want   string
	}{
		{func(s *State) { s.Proto = unix.IPPROTO_AH }, ipsec.ErrUnsupported, "IP protocol 51"},
		{func(s *State) { s.AEAD = nil }, ipsec.ErrUnsupported, "no AEAD"},
		{func(s *State) { s.AEAD.Name = "rfc4543(gcm(aes))" }, ipsec.ErrUnsupported, "rfc4543"},
		{func(s *State) { s.AEAD, s.Crypt = nil, &Algorithm{Name: "cbc(aes)"} }, ipsec.ErrUnsupported, "XFRMA_ALG_CRYPT"},
		{func(s *State) { s.SecCtx = &SecCtx{Context: "x"} }, ipsec.ErrUnsupported, "security context"},
		{func(s *State) { s.Mark = &Mark{1, 1} }, ipsec.ErrUnsupported, "mark"},
		{func(s *State) { s.OutputMark = &Mark{1, 1} }, ipsec.ErrUnsupported, "output-mark"},
		{func(s *State) { s.IfID = 1 }, ipsec.ErrUnsupported, "if_id"},
		{func(s *State) { s.TFCPad = 1 }, ipsec.ErrUnsupported, "tfcpad"},
		{func(s *State) { s.Sel.User = 1 }, ipsec.ErrUnsupported, "user"},
		{func(s *State) { s.Mode = ModeBeet }, ipsec.ErrUnsupported, "mode 4"},
		{func(s *State) { s.Flags = FlagNoECN }, ipsec.ErrUnsupported, "flags 0x1"},
		{func(s *State) { s.ExtraFlags = 2 }, ipsec.ErrUnsupported, "extra flags"},
		{func(s *State) { s.Encap = &EncapTmpl{Type: EncapESPInTCP} }, ipsec.ErrUnsupported, "espinudp"},
		{func(s *State) { s.Limits.HardAdd = Infinity }, ipsec.ErrUnsupported, "seconds"},
		{func(s *State) { s.AEAD.Key = ipsec.NewKey([]byte("too short")) }, ipsec.ErrInvalid, "key of 72 bits"},
		{func(s *State) { s.AEAD.ICVBits = 80 }, ipsec.ErrInvalid, "ICV of 80"},
		{func(s *State) { s.Limits.SoftBytes = 0 }, ipsec.ErrInvalid, "from the start"},
		{func(s *State) { s.Flags = FlagESN }, ipsec.ErrInvalid, "ESN needs"},
		{func(s *State) { s.Dir, s.ReplayWindow = StateDirOut, 32 }, ipsec.ErrInvalid, "replay window"},
		{func(s *State) { s.Dir, s.Replay = StateDirOut, &ReplayState{Seq: 1} }, ipsec.ErrInvalid, "inbound sequence"},
		{func(s *State) { s.Dir, s.Replay = StateDirIn, &ReplayState{OSeq: 1} }, ipsec.ErrInvalid, "outbound sequence"},
		{func(s *State) { s.Dir, s.Offload = StateDirIn, &Offload{Ifindex: 1} }, ipsec.ErrInvalid, "differ"},
		{func(s *State) { cpu := uint32(0); s.PCPU = &cpu }, ipsec.ErrInvalid, "SA_DIR"},
		{func(s *State) { s.NATKeepalive, s.Encap = 20, &EncapTmpl{Type: EncapESPInUDP} }, ipsec.ErrInvalid, "outbound SAs"},
		{func(s *State) { s.NATKeepalive, s.Encap, s.Dir = 20, &EncapTmpl{Type: EncapESPInUDP}, StateDirIn }, ipsec.ErrInvalid, "outbound SAs"},
		{func(s *State) { s.NATKeepalive, s.Dir = 20, StateDirOut }, ipsec.ErrInvalid, "UDP encapsulation"},
		{func(s *State) { s.MappingThresh = 20 }, ipsec.ErrInvalid, "ENCAP states"},
		{func(s *State) { s.MappingThresh, s.Encap, s.Dir = 20, &EncapTmpl{Type: EncapESPInUDP}, StateDirOut }, ipsec.ErrInvalid, "output SA"},
		{func(s *State) { s.Offload = &Offload{Ifindex: 1, Flags: 8} }, ipsec.ErrInvalid, "offload flags 0x8"},
	} {
		_, err := plainState(t, 1, c.change).SA()
		if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %v with %q", err, c.err, c.want)
		}
	}
	if _, err := plainState(t, 1, nil).SA(); err != nil {
		t.Errorf("the state all of these start from: %v", err)
	}
}

// TestVendorStates: the documented commands are SAs.
func TestVendorStates(t *testing.T) {
	sa, err := goldenStates(t)["first-server-2"].SA()
	want := ipsec.SA{
		Src: netip.MustParseAddr("192.168.1.65"), Dst: netip.MustParseAddr("192.168.1.64"), SPI: 0x622a73b4, RequestID: 0x622a73b4,
		Key: aead(t, keyVendor2, 128).Key, ICVBits: 128,
		Selector: ipsec.Selector{Src: netip.MustParsePrefix("192.168.1.65/32"), Dst: netip.MustParsePrefix("192.168.1.64/32")},
		Offload:  ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: 2, Direction: ipsec.Inbound},
	}
	if err != nil || !reflect.DeepEqual(sa, want) {
		t.Errorf("%+v, %v; want %+v", sa, err, want)
	}
}

// TestSelectorFamily: what a selector without addresses selects.
func TestSelectorFamily(t *testing.T) {
	all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	for _, c := range []struct {
		name   string
		change func(*State)
		want   netip.Prefix
	}{
		{"transport", nil, netip.Prefix{}},
		{"transport, as the kernel gives it back", func(s *State) { s.Sel = sel("0.0.0.0/0", "0.0.0.0/0") }, netip.Prefix{}},
		{"tunnel", func(s *State) { s.Mode = ModeTunnel }, all4},
		{"tunnel af-unspec", func(s *State) { s.Mode, s.Flags = ModeTunnel, FlagAFUnspec }, netip.Prefix{}},
		{"tunnel over IPv6", func(s *State) {
			s.Mode, s.Src, s.Dst = ModeTunnel, netip.IPv6LinkLocalAllNodes(), netip.IPv6LinkLocalAllRouters()
		}, all6},
		{"inter-family tunnel", func(s *State) { s.Mode, s.Sel = ModeTunnel, sel("::/0", "::/0") }, all6},
	} {
		sa, err := plainState(t, 1, c.change).SA()
		if err != nil || sa.Selector.Src != c.want || sa.Selector.Dst != c.want {
			t.Errorf("%s: %v→%v, %v; want %v", c.name, sa.Selector.Src, sa.Selector.Dst, err, c.want)
		}
	}
}

func genSA(t *rapid.T) ipsec.SA {
	v4 := rapid.Bool().Draw(t, "v4")
	n, big := rapid.Uint32(), rapid.Uint64Range(0, 1<<63)
	sec := rapid.Map(rapid.Int64Range(0, 1<<31), func(s int64) time.Duration { return time.Duration(s) * time.Second })
	at := rapid.Map(rapid.Int64Range(1, 1<<40), func(s int64) time.Time { return time.Unix(s, 0) })
	sa := ipsec.SA{
		Src: genAddr(t, v4, "src"), Dst: genAddr(t, v4, "dst"), SPI: ipsec.SPI(n.Draw(t, "spi")),
		Mode:      rapid.SampledFrom([]ipsec.Mode{ipsec.Transport, ipsec.Tunnel}).Draw(t, "mode"),
		Direction: rapid.SampledFrom([]ipsec.Direction{ipsec.AnyDirection, ipsec.Inbound, ipsec.Outbound}).Draw(t, "dir"),
		RequestID: n.Draw(t, "reqid"), ESN: rapid.Bool().Draw(t, "esn"),
		Key:     ipsec.RandomKey(rapid.SampledFrom([]int{20, 28, 36}).Draw(t, "key")),
		ICVBits: rapid.SampledFrom([]int{64, 96, 128}).Draw(t, "icv"),
		Limits: ipsec.Limits{
			SoftBytes: big.Draw(t, "sb"), HardBytes: big.Draw(t, "hb"), SoftPackets: big.Draw(t, "sp"), HardPackets: big.Draw(t, "hp"),
			SoftTime: sec.Draw(t, "st"), HardTime: sec.Draw(t, "ht"), SoftIdle: sec.Draw(t, "si"), HardIdle: sec.Draw(t, "hi"),
		},
		Counters: ipsec.Counters{
			Bytes: big.Draw(t, "bytes"), Packets: big.Draw(t, "packets"), Added: at.Draw(t, "added"), Used: at.Draw(t, "used"),
			ReplayDrops: uint64(n.Draw(t, "replay")), WindowDrops: 2, IntegrityDrops: 3,
		},
	}
	seqMax := uint64(1<<32 - 1)
	if sa.ESN {
		seqMax = 1<<64 - 1
	}
	if sa.Direction != ipsec.Inbound {
		sa.Counters.Sent = rapid.Uint64Range(0, seqMax).Draw(t, "sent")
	}
	if sa.Direction != ipsec.Outbound {
		sa.Window = rapid.Uint32Range(1, 4096).Draw(t, "window")
		sa.Counters.Received = rapid.Uint64Range(0, seqMax).Draw(t, "received")
		if rapid.Bool().Draw(t, "bitmap") {
			words := int(sa.Window+31) / 32
			sa.Counters.Bitmap = rapid.SliceOfN(rapid.Uint32Range(1, 1<<32-1), words, words).Draw(t, "bitmap words")
		}
	}
	if rapid.Bool().Draw(t, "selector") {
		s := genSelector(t)
		if s.Src.Bits() > 0 { // else it may come back as the zero selector
			sa.Selector = s.Selector
		}
	}
	if cpu := n.Draw(t, "CPU"); cpu%2 == 0 && sa.Direction != ipsec.AnyDirection {
		sa.CPU = &cpu
	}
	if rapid.Bool().Draw(t, "encap") {
		sa.Encap = &ipsec.Encap{SrcPort: 4500, DstPort: rapid.Uint16().Draw(t, "port")}
		if rapid.Bool().Draw(t, "original") {
			sa.Encap.Original = sa.Dst
		}
		age := time.Duration(rapid.Uint32().Draw(t, "seconds")) * time.Second
		if sa.Direction == ipsec.Outbound {
			sa.NATKeepalive = age
		} else {
			sa.MappingAge = age
		}
	}
	if rapid.Bool().Draw(t, "offload") {
		sa.Offload = ipsec.Offload{
			Mode:      rapid.SampledFrom([]ipsec.OffloadMode{ipsec.CryptoOffload, ipsec.PacketOffload}).Draw(t, "offload mode"),
			Interface: 7, Direction: sa.Direction,
		}
		if sa.Direction == ipsec.AnyDirection {
			sa.Offload.Direction = ipsec.Inbound
		}
	}
	return sa
}

// TestSARoundTrip: an SA survives translation, message and back.
func TestSARoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sa := genSA(t)
		s, err := StateFromSA(&sa)
		if err != nil {
			t.Fatal(err)
		}
		b, err := EncodeState(s)
		if err != nil {
			t.Fatal(err)
		}
		if s, err = DecodeState(b); err != nil {
			t.Fatal(err)
		}
		if got, err := s.SA(); err != nil || !reflect.DeepEqual(got, sa) {
			t.Fatalf("%+v\nbecomes %+v, %v", sa, got, err)
		}
	})
}

func TestSARefusals(t *testing.T) {
	good := ipsec.SA{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), SPI: 1, Key: ipsec.RandomKey(20), ICVBits: 128}
	for name, change := range map[string]func(*ipsec.SA){
		"ICV":                    func(sa *ipsec.SA) { sa.ICVBits = -1 },
		"mode":                   func(sa *ipsec.SA) { sa.Mode = 9 },
		"direction":              func(sa *ipsec.SA) { sa.Direction = ipsec.Forward },
		"half a second":          func(sa *ipsec.SA) { sa.Limits.SoftTime = time.Second / 2 },
		"negative time":          func(sa *ipsec.SA) { sa.Limits.HardIdle = -time.Second },
		"offload without device": func(sa *ipsec.SA) { sa.Offload = ipsec.Offload{Mode: ipsec.CryptoOffload, Direction: ipsec.Inbound} },
		"offload any direction":  func(sa *ipsec.SA) { sa.Offload = ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: 1} },
		"long sequence, no ESN":  func(sa *ipsec.SA) { sa.Counters.Sent = 1 << 32 },
		"selector of two kinds": func(sa *ipsec.SA) {
			sa.Selector = ipsec.Selector{Src: netip.MustParsePrefix("10.0.0.0/8"), Dst: netip.MustParsePrefix("::/0")}
		},
	} {
		sa := good
		change(&sa)
		if s, err := StateFromSA(&sa); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	for name, change := range map[string]func(*State){
		"addresses of two kinds": func(s *State) { s.Src = netip.IPv6Unspecified() },
		"no destination":         func(s *State) { s.Src, s.Dst = netip.Addr{}, netip.Addr{} },
		"a zone":                 func(s *State) { s.Src, s.Dst = netip.Addr{}, netip.MustParseAddr("fe80::1%eth0") },
		"direction":              func(s *State) { s.Dir = 7 },
		"a name too long":        func(s *State) { s.AEAD.Name = strings.Repeat("x", 64) },
		"a name with a NUL":      func(s *State) { s.AEAD.Name = "a\x00b" },
		"key and its length":     func(s *State) { s.AEAD.KeyBits = 8 },
		"half a byte of key":     func(s *State) { s.AEAD.Key, s.AEAD.KeyBits = ipsec.Key{}, 12 },
		"a key without end":      func(s *State) { s.AEAD.Key, s.AEAD.KeyBits = ipsec.Key{}, 1<<32-8 },
		"bitmap":                 func(s *State) { s.Replay = &ReplayState{Bitmap: make([]uint32, 129)} },
		"encap address":          func(s *State) { s.Encap = &EncapTmpl{OA: netip.IPv6Loopback()} },
		"selector's interface":   func(s *State) { s.Sel.Interface = -1 },
	} {
		if b, err := EncodeState(plainState(t, 1, change)); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
}

func TestPolicyConversion(t *testing.T) {
	tunnel := ipsec.Policy{
		Selector:  sel("10.1.0.0/16", "10.2.0.0/16").Selector,
		Direction: ipsec.Inbound, Priority: 5,
		Processing: []ipsec.Processing{{
			Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), SPI: 0x1000, Mode: ipsec.Tunnel, RequestID: 3, Optional: true,
		}},
	}
	wild := tunnel
	wild.Direction, wild.Index = ipsec.Outbound, 9
	wild.Processing = []ipsec.Processing{{RequestID: 3}, {RequestID: 4}}
	block, bypass := tunnel, tunnel
	block.Action, block.Processing = ipsec.Discard, nil
	bypass.Action, bypass.Processing, bypass.Direction = ipsec.Bypass, nil, ipsec.Forward
	for _, p := range []ipsec.Policy{tunnel, wild, block, bypass} {
		xp, err := PolicyFromIPsec(&p)
		if err != nil {
			t.Fatal(err)
		}
		b, err := EncodePolicy(xp)
		if err != nil {
			t.Fatal(err)
		}
		if xp, err = DecodePolicy(b); err != nil {
			t.Fatal(err)
		}
		if got, err := xp.IPsec(); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%+v\nbecomes %+v, %v", p, got, err)
		}
	}
	if got, err := goldenPolicies()["policy-tunnel"].IPsec(); err != nil || !reflect.DeepEqual(got, tunnel) {
		t.Errorf("iproute2's is %+v, %v; want %+v", got, err, tunnel)
	}
	for _, c := range []struct {
		change func(*Policy)
		err    error
		want   string
	}{
		{func(p *Policy) { p.Type = PolicySub }, ipsec.ErrUnsupported, "type 1"},
		{func(p *Policy) { p.Flags = PolicyICMP }, ipsec.ErrUnsupported, "flags"},
		{func(p *Policy) { p.Mark = &Mark{1, 1} }, ipsec.ErrUnsupported, "mark"},
		{func(p *Policy) { p.IfID = 1 }, ipsec.ErrUnsupported, "if_id"},
		{func(p *Policy) { p.Offload = &Offload{Ifindex: 1} }, ipsec.ErrUnsupported, "offload"},
		{func(p *Policy) { p.Limits.HardUse = 1 }, ipsec.ErrUnsupported, "limits"},
		{func(p *Policy) { p.Dir = 3 }, ipsec.ErrUnsupported, "direction 3"},
		{func(p *Policy) { p.Action = 9 }, ipsec.ErrInvalid, "action 9"},
		{func(p *Policy) { p.Sel.User = 1 }, ipsec.ErrUnsupported, "user"},
		{func(p *Policy) { p.SecCtx = &SecCtx{Context: "x"} }, ipsec.ErrUnsupported, "security context"},
		{func(p *Policy) { p.Tmpls[0].Proto = unix.IPPROTO_COMP }, ipsec.ErrUnsupported, "protocol 108"},
		{func(p *Policy) { p.Tmpls[0].Mode = ModeBeet }, ipsec.ErrUnsupported, "mode 4"},
	} {
		p := goldenPolicies()["policy-tunnel"]
		c.change(p)
		if _, err := p.IPsec(); !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %v with %q", err, c.err, c.want)
		}
	}
	for name, change := range map[string]func(*ipsec.Policy){
		"nothing to protect with": func(p *ipsec.Policy) { p.Processing = nil },
		"bypass with processing":  func(p *ipsec.Policy) { p.Action = ipsec.Bypass },
		"direction":               func(p *ipsec.Policy) { p.Direction = ipsec.AnyDirection },
		"action":                  func(p *ipsec.Policy) { p.Action = 9 },
		"mode":                    func(p *ipsec.Policy) { p.Processing = []ipsec.Processing{{Mode: 9}} },
	} {
		p := tunnel
		change(&p)
		if xp, err := PolicyFromIPsec(&p); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, xp, err)
		}
	}
}
