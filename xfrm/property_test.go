package xfrm

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"espalier/ipsec"
)

// numberedEnv takes interfaces named if1, if2 … which is how unnamed ones print.
var numberedEnv = Env{Interface: func(name string) (int, error) {
	digits, ok := strings.CutPrefix(name, "if")
	if !ok {
		return 0, errors.New("no such device")
	}
	return strconv.Atoi(digits)
}}

// A state written as a command and parsed again is the same state.
func TestStateWordsParseBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawState(t)
		w := StateWords(want, FormatOptions{ShowKey: true})
		cmd, err := Parse(w, numberedEnv)
		if err != nil {
			t.Fatalf("%q: %v", w, err)
		}
		if diff := cmp.Diff(want, cmd.State, compareAddrs); diff != "" {
			t.Fatalf("%q: %s", w, diff)
		}
	})
}

func TestPolicyWordsParseBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawPolicy(t)
		line := FormatPolicy(want, FormatOptions{})
		lines, err := ParseScript(strings.NewReader(line))
		if err != nil || len(lines) != 1 {
			t.Fatalf("%q: %v, %v", line, lines, err)
		}
		cmd, err := Parse(lines[0].Words, numberedEnv)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if diff := cmp.Diff(want, cmd.Policy, compareAddrs); diff != "" {
			t.Fatalf("%q: %s", line, diff)
		}
	})
}

func drawAddr(t *rapid.T, is6 bool) netip.Addr {
	if is6 {
		return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr6")))
	}
	return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr4")))
}

func drawPrefix(t *rapid.T, is6 bool) netip.Prefix {
	a := drawAddr(t, is6)
	return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits"))
}

func family(is6 bool) uint16 {
	if is6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func drawSelector(t *rapid.T) Selector {
	is6 := rapid.Bool().Draw(t, "sel6")
	s := Selector{Family: family(is6)}
	s.Src, s.Dst = drawPrefix(t, is6), drawPrefix(t, is6)
	s.Interface = rapid.IntRange(0, 1<<20).Draw(t, "selif")
	s.Protocol = rapid.SampledFrom([]uint8{0, 1, 6, 17, 33, 47, 58, 99, 132, 135, 200}).Draw(t, "selproto")
	least, most := uint16(1), uint16(0xffff)
	switch s.Protocol {
	case protoICMP, protoICMPv6, protoMobility: // types and codes
		least, most = 0, 0xff
	}
	draw := func(name string) (m ipsec.PortMatch) {
		if rapid.Bool().Draw(t, name) {
			m = ipsec.Port(rapid.Uint16Range(least, most).Draw(t, name))
		}
		return m
	}
	switch s.Protocol {
	case 47: // both halves of a key, or none
		if s.SrcPort = draw("key"); !s.SrcPort.Any() {
			s.DstPort = ipsec.Port(rapid.Uint16().Draw(t, "key"))
		}
	case 99, 200:
	default:
		s.SrcPort, s.DstPort = draw("sport"), draw("dport")
	}
	return s
}

func drawMark(t *rapid.T, name string) *Mark {
	if !rapid.Bool().Draw(t, name) {
		return nil
	}
	return &Mark{rapid.Uint32Min(1).Draw(t, name), rapid.SampledFrom([]uint32{1, 0xff, ^uint32(0)}).Draw(t, name)}
}

func drawLimits(t *rapid.T) LifetimeConfig {
	l := NoLimits
	for _, f := range limitFields {
		if rapid.Bool().Draw(t, f.name) {
			*f.field(&l) = rapid.Uint64().Draw(t, f.name)
		}
	}
	return l
}

func drawState(t *rapid.T) *State {
	is6 := rapid.Bool().Draw(t, "is6")
	u32 := func(name string) uint32 { return rapid.Uint32().Draw(t, name) }
	s := &State{
		Src: drawAddr(t, is6), Dst: drawAddr(t, is6), Seq: u32("seq"),
		Reqid:        u32("reqid"),
		ReplayWindow: rapid.Uint32Range(0, maxWindow).Draw(t, "window"),
		Flags:        StateFlag(rapid.Byte().Draw(t, "flags")), ExtraFlags: u32("extra"),
		Limits: drawLimits(t), Mark: drawMark(t, "mark"), OutputMark: drawMark(t, "omark"),
		IfID: u32("if_id"), TFCPad: u32("tfc"),
		Dir: StateDir(rapid.IntRange(0, 2).Draw(t, "dir")),
	}
	drawProtocol(t, s, is6)
	if rapid.Bool().Draw(t, "ctx") {
		s.SecCtx = &SecCtx{Alg: 1, DOI: 1, Context: rapid.StringMatching(`[a-z_:]{0,40}`).Draw(t, "ctx")}
	}
	if rapid.Bool().Draw(t, "pcpu") {
		cpu := u32("pcpu")
		s.PCPU = &cpu
	}
	if s.Flags&FlagESN != 0 && s.Dir != StateDirOut {
		s.ReplayWindow = max(s.ReplayWindow, 1)
	}
	if rapid.Bool().Draw(t, "sel") {
		s.Sel = drawSelector(t)
	}
	if r := (ReplayState{Seq: u32("rs"), OSeq: u32("ro")}); r.Seq != 0 || r.OSeq != 0 {
		if s.wideReplay() {
			r.SeqHi, r.OSeqHi = u32("rsh"), u32("roh")
		}
		s.Replay = &r
	}
	if rapid.Bool().Draw(t, "encap") {
		s.Encap = &EncapTmpl{Type: rapid.SampledFrom([]EncapType{1, 2, 7}).Draw(t, "etype"),
			SrcPort: rapid.Uint16().Draw(t, "esp"), DstPort: rapid.Uint16().Draw(t, "edp"), OA: drawAddr(t, is6)}
	}
	if rapid.Bool().Draw(t, "nat") {
		s.NATKeepalive, s.MappingThresh = u32("keepalive"), u32("maxage")
	}
	if s.Dir != 0 && rapid.Bool().Draw(t, "offload") {
		s.Offload = &Offload{Ifindex: rapid.Int32Range(1, 1<<30).Draw(t, "dev")}
		if s.Dir == StateDirIn {
			s.Offload.Flags |= OffloadInbound
		}
		if rapid.Bool().Draw(t, "packet") {
			s.Offload.Flags |= OffloadPacket
		}
	}
	return s
}

// drawProtocol draws a protocol with the algorithms, modes and SPIs that go with it.
func drawProtocol(t *rapid.T, s *State, is6 bool) {
	name := rapid.StringMatching(`[a-wyz][a-z0-9()]{0,20}`)
	key := func() (ipsec.Key, uint32) {
		k := ipsec.NewKey(rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "key"))
		return k, uint32(k.Len() * 8)
	}
	algorithm := func() *Algorithm {
		a := &Algorithm{Name: name.Draw(t, "name")}
		a.Key, a.KeyBits = key()
		return a
	}
	authenticate := func(must bool) {
		switch how := rapid.IntRange(0, 2).Draw(t, "auth"); {
		case how == 2:
			a := algorithm()
			s.AuthTrunc = &AuthTrunc{Name: a.Name, Key: a.Key, KeyBits: a.KeyBits, TruncBits: rapid.Uint32().Draw(t, "trunc")}
		case must || how == 1:
			s.Auth = algorithm()
		}
	}
	s.SPI = ipsec.SPI(rapid.Uint32().Draw(t, "spi"))
	s.Mode = rapid.SampledFrom([]Mode{ModeTransport, ModeTunnel}).Draw(t, "mode")
	s.Proto = rapid.SampledFrom([]uint8{protoESP, protoESP, protoAH, protoComp, protoHAO, protoRoute2, protoAny}).Draw(t, "proto")
	switch s.Proto {
	case protoESP:
		s.Mode = rapid.SampledFrom([]Mode{ModeTransport, ModeTunnel, ModeBeet}).Draw(t, "mode")
		if rapid.Bool().Draw(t, "aead") {
			a := &AEAD{Name: AEADName, ICVBits: rapid.Uint32().Draw(t, "icv")}
			a.Key, a.KeyBits = key()
			s.AEAD = a
			return
		}
		s.Crypt = algorithm()
		authenticate(false)
	case protoAH:
		authenticate(true)
	case protoComp:
		s.Comp = &Algorithm{Name: name.Draw(t, "name")}
		s.SPI &= 0xffff
	case protoHAO, protoRoute2:
		s.SPI = 0
		s.Mode = rapid.SampledFrom([]Mode{ModeRouteOptimization, ModeInTrigger}).Draw(t, "mode")
		s.CoAddr = drawAddr(t, is6)
	}
}

func drawPolicy(t *rapid.T) *Policy {
	u32 := func(name string) uint32 { return rapid.Uint32().Draw(t, name) }
	p := &Policy{
		Sel: drawSelector(t), Limits: drawLimits(t), Priority: u32("prio"), Index: u32("index"),
		Dir:    PolicyDir(rapid.IntRange(0, 2).Draw(t, "dir")),
		Action: PolicyAction(rapid.IntRange(0, 1).Draw(t, "action")),
		Flags:  PolicyFlag(rapid.Byte().Draw(t, "flags")),
		Type:   PolicyType(rapid.IntRange(0, 1).Draw(t, "type")),
		Mark:   drawMark(t, "mark"), IfID: u32("if_id"),
	}
	if rapid.Bool().Draw(t, "offload") {
		p.Offload = &Offload{Ifindex: rapid.Int32Range(1, 1<<30).Draw(t, "dev"), Flags: OffloadPacket}
	}
	for range rapid.IntRange(0, 3).Draw(t, "tmpls") {
		is6 := rapid.Bool().Draw(t, "t6")
		all := ^uint32(0)
		proto := rapid.SampledFrom([]uint8{50, 51, 108, 43, 60, 255}).Draw(t, "tproto")
		spi := ipsec.SPI(u32("tspi"))
		switch proto {
		case protoComp:
			spi &= 0xffff
		case protoHAO, protoRoute2:
			spi = 0
		}
		p.Tmpls = append(p.Tmpls, Tmpl{
			Src: drawAddr(t, is6), Dst: drawAddr(t, is6), SPI: spi, Reqid: u32("treqid"), Proto: proto,
			Family: family(is6), Mode: Mode(rapid.IntRange(0, 4).Draw(t, "tmode")),
			Optional: rapid.Bool().Draw(t, "level"), AAlgos: all, EAlgos: all, CAlgos: all,
		})
	}
	return p
}

// FuzzParse: nothing panics, an error names a word that was given, and what is accepted is
// accepted again when written out.
func FuzzParse(f *testing.F) {
	f.Add("state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 1 aead rfc4106(gcm(aes)) 0xabc 128 sel proto tcp dport 5")
	f.Add("state add dst ::1 proto esp aead a b 1 flag esn replay-window 99 offload dev if3 dir in limit byte-soft 4")
	f.Add("policy add src 1.1.1.1 dir in tmpl proto esp reqid 5 mode tunnel level use")
	f.Add("policy list nosock index 3")
	f.Add("state delete dst 1.1.1.1 proto esp spi 4 mark 5 mask 6")
	f.Add("state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 1 enc cbc(aes) 0x00 auth-trunc hmac(sha256) 0x01 128 ctx a pcpu-num 3")
	f.Add("state add src ::1 dst ::2 proto hao mode ro coa ::3 sel proto gre key 1.2.3.4 flag mode in_trigger")
	f.Add("state add proto comp spi 5 comp deflate output-mark 3 mask 0 mark 1 mask 0 extra-flag 0x2")
	f.Add("state allocspi proto esp min 1 max 2 dir out pcpu-num 4 seq 5")
	f.Add("policy set hthresh4 1 2 hthresh6 3 4")
	f.Add("policy setdefault in block out allow fwd accept")
	f.Add("monitor nokeys all-n SA acq file /dev/null")
	f.Fuzz(func(t *testing.T, line string) {
		w := strings.Fields(line)
		cmd, err := Parse(w, numberedEnv)
		var syntax *SyntaxError
		if errors.As(err, &syntax) && syntax.Word != "" && (syntax.Index >= len(w) || w[syntax.Index] != syntax.Word) {
			t.Fatalf("%q: word %d is not %q", w, syntax.Index, syntax.Word)
		}
		if err != nil {
			return
		}
		switch {
		case cmd.State != nil:
			again, err := Parse(StateWords(cmd.State, FormatOptions{ShowKey: true}), numberedEnv)
			if err != nil {
				t.Fatalf("%q: %v", w, err)
			}
			if r := cmd.State.Replay; r != nil && r.Seq|r.OSeq|r.SeqHi|r.OSeqHi == 0 {
				cmd.State.Replay = nil // `replay-seq 0` is as good as none
			}
			if diff := cmp.Diff(cmd.State, again.State, compareAddrs); diff != "" {
				t.Fatalf("%q: %s", w, diff)
			}
		case cmd.SPIRange != nil:
			if _, err := EncodeSPIRange(cmd.SPIRange); err != nil {
				t.Fatalf("%q: %v", w, err)
			}
		case cmd.Policy != nil:
			if _, err := Parse(PolicyWords(cmd.Policy, FormatOptions{}), numberedEnv); err != nil {
				t.Fatalf("%q: %v", w, err)
			}
		}
	})
}
