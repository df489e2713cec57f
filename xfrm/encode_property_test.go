package xfrm

import (
	"net/netip"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"espalier/ipsec"
)

func genAddr(t *rapid.T, v4 bool, label string) netip.Addr {
	b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)
	if v4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b))
}

func genSelector(t *rapid.T) Selector {
	s := Selector{User: rapid.Uint32().Draw(t, "user")}
	s.Protocol = rapid.Byte().Draw(t, "proto")
	s.Interface = rapid.IntRange(0, 1<<31-1).Draw(t, "ifindex")
	s.SrcPort = ipsec.PortMatch{Value: rapid.Uint16().Draw(t, "sport"), Mask: rapid.Uint16().Draw(t, "sport mask")}
	s.DstPort = ipsec.PortMatch{Value: rapid.Uint16().Draw(t, "dport"), Mask: rapid.Uint16().Draw(t, "dport mask")}
	s.Family = rapid.SampledFrom([]uint16{unix.AF_UNSPEC, unix.AF_INET, unix.AF_INET6}).Draw(t, "family")
	if s.Family != unix.AF_UNSPEC {
		v4, bits := s.Family == unix.AF_INET, 128
		if v4 {
			bits = 32
		}
		s.Src = netip.PrefixFrom(genAddr(t, v4, "sel src"), rapid.IntRange(0, bits).Draw(t, "sel src bits"))
		s.Dst = netip.PrefixFrom(genAddr(t, v4, "sel dst"), rapid.IntRange(0, bits).Draw(t, "sel dst bits"))
	}
	return s
}

func genMark(t *rapid.T, label string) *Mark {
	if !rapid.Bool().Draw(t, label) {
		return nil
	}
	return &Mark{rapid.Uint32().Draw(t, label+" value"), rapid.Uint32().Draw(t, label+" mask")}
}

func genLimits(t *rapid.T) LifetimeConfig {
	n := rapid.Uint64()
	return LifetimeConfig{
		n.Draw(t, "l0"), n.Draw(t, "l1"), n.Draw(t, "l2"), n.Draw(t, "l3"), n.Draw(t, "l4"), n.Draw(t, "l5"), n.Draw(t, "l6"), n.Draw(t, "l7"),
	}
}

func genAEAD(t *rapid.T) *AEAD {
	a := &AEAD{Name: rapid.StringMatching(`[a-z0-9()]{1,63}`).Draw(t, "aead"), ICVBits: rapid.Uint32().Draw(t, "icv")}
	key := rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "key")
	a.KeyBits = uint32(len(key)) * 8
	if !allZero(key) {
		a.Key = ipsec.NewKey(key)
	}
	return a
}

// genReplay draws a window and the replay state that goes with it.
func genReplay(t *rapid.T, s *State) {
	s.ReplayWindow = rapid.Uint32Range(0, maxWindow).Draw(t, "window")
	if !s.wideReplay() {
		if rapid.Bool().Draw(t, "replay") {
			s.Replay = &ReplayState{Seq: rapid.Uint32().Draw(t, "seq"), OSeq: rapid.Uint32().Draw(t, "oseq"), Bitmap: []uint32{rapid.Uint32().Draw(t, "bitmap")}}
		}
		return
	}
	s.Replay = &ReplayState{
		Seq: rapid.Uint32().Draw(t, "seq"), OSeq: rapid.Uint32().Draw(t, "oseq"),
		SeqHi: rapid.Uint32().Draw(t, "seq-hi"), OSeqHi: rapid.Uint32().Draw(t, "oseq-hi"),
	}
	if n := int(s.ReplayWindow+31) / 32; n > 0 {
		s.Replay.Bitmap = rapid.SliceOfN(rapid.Uint32(), n, n).Draw(t, "bitmap")
	}
}

func genState(t *rapid.T) *State {
	v4 := rapid.Bool().Draw(t, "v4")
	n := rapid.Uint32()
	s := &State{
		Src: genAddr(t, v4, "src"), Dst: genAddr(t, v4, "dst"), Proto: rapid.Byte().Draw(t, "proto"),
		SPI: ipsec.SPI(n.Draw(t, "spi")), Mode: Mode(rapid.Byte().Draw(t, "mode")), Reqid: n.Draw(t, "reqid"), Seq: n.Draw(t, "seq"),
		Sel: genSelector(t), Limits: genLimits(t),
		Current: LifetimeCurrent{rapid.Uint64().Draw(t, "bytes"), 2, 3, 4}, Stats: StateStats{n.Draw(t, "stats"), 2, 3},
		Flags: StateFlag(rapid.Byte().Draw(t, "flags")), ExtraFlags: n.Draw(t, "xflags"),
		Dir: StateDir(rapid.Uint8Range(0, 2).Draw(t, "dir")), Mark: genMark(t, "mark"), OutputMark: genMark(t, "output-mark"),
		IfID: n.Draw(t, "if_id"), TFCPad: n.Draw(t, "tfcpad"), LastUsed: rapid.Uint64().Draw(t, "lastused"),
	}
	genReplay(t, s)
	if rapid.Bool().Draw(t, "has aead") {
		s.AEAD = genAEAD(t)
	}
	genMore(t, s, v4)
	if rapid.Bool().Draw(t, "encap") {
		s.Encap = &EncapTmpl{EncapType(rapid.Uint16().Draw(t, "type")), rapid.Uint16().Draw(t, "esport"), rapid.Uint16().Draw(t, "edport"), genAddr(t, v4, "oa")}
	}
	if rapid.Bool().Draw(t, "offload") {
		s.Offload = &Offload{rapid.Int32().Draw(t, "ifindex"), OffloadFlag(rapid.Byte().Draw(t, "oflags"))}
	}
	return s
}

func genAlgorithm(t *rapid.T, label string) *Algorithm {
	if !rapid.Bool().Draw(t, label) {
		return nil
	}
	a := genAEAD(t)
	return &Algorithm{Name: a.Name, Key: a.Key, KeyBits: a.KeyBits}
}

func genOptional(t *rapid.T, label string) *uint32 {
	if !rapid.Bool().Draw(t, label) {
		return nil
	}
	v := rapid.Uint32().Draw(t, label)
	return &v
}

func genSecCtx(t *rapid.T) *SecCtx {
	if !rapid.Bool().Draw(t, "ctx") {
		return nil
	}
	return &SecCtx{Alg: rapid.Byte().Draw(t, "alg"), DOI: rapid.Byte().Draw(t, "doi"), Context: rapid.StringMatching(`[a-z:]{0,50}`).Draw(t, "context")}
}

// genMore draws what few states have.
func genMore(t *rapid.T, s *State, v4 bool) {
	s.Crypt, s.Auth, s.Comp = genAlgorithm(t, "crypt"), genAlgorithm(t, "auth"), genAlgorithm(t, "comp")
	if a := genAlgorithm(t, "trunc"); a != nil {
		s.AuthTrunc = &AuthTrunc{Name: a.Name, Key: a.Key, KeyBits: a.KeyBits, TruncBits: rapid.Uint32().Draw(t, "bits")}
	}
	if rapid.Bool().Draw(t, "coa") {
		s.CoAddr = genAddr(t, v4, "coa")
	}
	s.SecCtx = genSecCtx(t)
	s.ReplayThresh, s.TimerThresh, s.PCPU = genOptional(t, "rthresh"), genOptional(t, "ethresh"), genOptional(t, "pcpu")
	s.MappingThresh, s.NATKeepalive = rapid.Uint32().Draw(t, "mthresh"), rapid.Uint32().Draw(t, "keepalive")
	if rapid.Bool().Draw(t, "iptfs") {
		window := rapid.Uint16().Draw(t, "reorder")
		s.IPTFS = &IPTFS{
			DropTime: genOptional(t, "drop"), ReorderWindow: &window, DontFragment: rapid.Bool().Draw(t, "df"),
			InitDelay: genOptional(t, "delay"), MaxQueue: genOptional(t, "queue"), PacketSize: genOptional(t, "size"),
		}
	}
}

func genPolicy(t *rapid.T) *Policy {
	n := rapid.Uint32()
	p := &Policy{
		Sel: genSelector(t), Limits: genLimits(t), Current: LifetimeCurrent{1, 2, rapid.Uint64().Draw(t, "add"), 4},
		Priority: n.Draw(t, "priority"), Index: n.Draw(t, "index"), Dir: PolicyDir(rapid.Byte().Draw(t, "dir")),
		Action: PolicyAction(rapid.Byte().Draw(t, "action")), Flags: PolicyFlag(rapid.Byte().Draw(t, "flags")),
		Type: PolicyType(rapid.Byte().Draw(t, "type")), Mark: genMark(t, "mark"), IfID: n.Draw(t, "if_id"),
	}
	for i := range rapid.IntRange(0, maxTmpls).Draw(t, "tmpls") {
		v4 := rapid.Bool().Draw(t, "tmpl v4")
		tm := Tmpl{
			Src: genAddr(t, v4, "tmpl src"), Dst: genAddr(t, v4, "tmpl dst"), Proto: rapid.Byte().Draw(t, "tmpl proto"), SPI: ipsec.SPI(i),
			Mode: Mode(rapid.Byte().Draw(t, "tmpl mode")), Reqid: n.Draw(t, "tmpl reqid"), Optional: rapid.Bool().Draw(t, "use"),
			AAlgos: n.Draw(t, "aalgos"), EAlgos: 2, CAlgos: 3, Family: unix.AF_INET6,
		}
		if v4 {
			tm.Family = unix.AF_INET
		}
		if rapid.Bool().Draw(t, "wildcard") {
			tm.Src, tm.Dst, tm.Family = netip.Addr{}, netip.Addr{}, unix.AF_UNSPEC
		}
		p.Tmpls = append(p.Tmpls, tm)
	}
	return p
}

func TestStateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genState(t)
		b, err := EncodeState(s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeState(b); err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("%+v\nbecomes %+v, %v", s, got, err)
		}
		if b, err = EncodeStateDeleted(s); err != nil {
			t.Fatal(err)
		}
		e := Event{}
		if err := e.getStateDeleted(b); err != nil || !reflect.DeepEqual(e.State, s) {
			t.Fatalf("%+v\nbecomes %+v, %v", s, e.State, err)
		}
	})
}

func TestPolicyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := genPolicy(t)
		b, err := EncodePolicy(p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodePolicy(b); err != nil || !reflect.DeepEqual(got, p) {
			t.Fatalf("%+v\nbecomes %+v, %v", p, got, err)
		}
		id := PolicyID{Sel: p.Sel, Index: p.Index, Dir: p.Dir, Type: p.Type, Mark: p.Mark, IfID: p.IfID}
		if b, err = EncodePolicyID(&id); err != nil {
			t.Fatal(err)
		}
		if got, err := DecodePolicyID(b); err != nil || !reflect.DeepEqual(got, id) {
			t.Fatalf("%+v\nbecomes %+v, %v", id, got, err)
		}
	})
}
