package differential

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"math/rand/v2"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/test/lab"
	"espalier/xfrm"
)

// TestMessages lets both print random messages of all kinds from a file.
func TestMessages(t *testing.T) {
	ip := newIP(t)
	lab.Root(t)
	g := &messages{generator{rand.New(rand.NewPCG(*seed, 7))}}
	file := filepath.Join(t.TempDir(), "messages")
	var content []byte
	for range 1500 {
		content = xfrm.AppendMessage(content, g.message(t))
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range []string{"", "-s", "-o", "-s -o", "-4", "-d"} {
		args := append(strings.Fields(options), "xfrm", "monitor", "file", file)
		theirs := alone(t, ip, args...)
		args = append([]string{"xfrm", "--show-keys"}, append(strings.Fields(options), args[len(args)-3:]...)...)
		ours := alone(t, lab.Binary(t), args...)
		if len(theirs) < 100000 {
			t.Errorf("ip %s prints only %d bytes", options, len(theirs))
		}
		sameText(t, "ip "+options+" xfrm monitor file", theirs, ours)
	}
	// Timestamps differ by what time it is.
	for _, options := range []string{"-t", "-ts", "-t -o"} {
		theirs := alone(t, ip, append(strings.Fields(options), "xfrm", "monitor", "file", file)...)
		ours := alone(t, lab.Binary(t), append([]string{"xfrm", "--show-keys"}, append(strings.Fields(options), "monitor", "file", file)...)...)
		sameText(t, "ip "+options+" xfrm monitor file", untimed(theirs), untimed(ours))
	}
}

// alone runs a program in a network namespace of its own, where interfaces have no names, and
// returns what it prints.
func alone(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, stderr.String())
	}
	return string(out)
}

func untimed(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "Timestamp: ") && strings.HasSuffix(line, " usec\n") {
			line = "Timestamp\n"
		}
		if strings.HasPrefix(line, "[20") {
			line = "[" + line[strings.Index(line, "]"):]
		}
		b.WriteString(line)
	}
	return b.String()
}

// sameText reports the first line that differs, with those before it.
func sameText(t *testing.T, what, theirs, ours string) {
	t.Helper()
	a, b := strings.Split(theirs, "\n"), strings.Split(ours, "\n")
	for i := range max(len(a), len(b)) {
		if i < len(a) && i < len(b) && a[i] == b[i] {
			continue
		}
		theirs, ours = "(nothing)", "(nothing)"
		if i < len(a) {
			theirs = a[i]
		}
		if i < len(b) {
			ours = b[i]
		}
		at := 0
		for at < min(len(theirs), len(ours)) && theirs[at] == ours[at] {
			at++
		}
		from := max(at-200, 0)
		t.Errorf("%s: line %d, after %q\n  ip: %q\nours: %q", what, i+1, b[max(i-2, 0):min(i, len(b))],
			theirs[from:min(at+100, len(theirs))], ours[from:min(at+100, len(ours))])
		return
	}
}

// messages makes random messages.
type messages struct{ generator }

func (g *messages) address(v6 bool) netip.Addr {
	var b [16]byte
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	if v6 {
		b[0] = 0x20
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}

func (g *messages) u32() uint32 {
	if g.chance(50) {
		return g.Uint32N(10)
	}
	return g.Uint32()
}

func (g *messages) selector() xfrm.Selector {
	v6 := g.chance(40)
	family, bits := uint16(unix.AF_INET), 33
	if v6 {
		family, bits = unix.AF_INET6, 129
	}
	s := xfrm.Selector{Family: family}
	s.Src, s.Dst = netip.PrefixFrom(g.address(v6), g.IntN(bits)), netip.PrefixFrom(g.address(v6), g.IntN(bits))
	s.Protocol = []uint8{0, 1, 6, 17, 47, 50, 58, 132, 33, 99, 200, 135}[g.IntN(12)]
	if g.chance(50) {
		s.SrcPort = ipsec.Port(uint16(g.u32()))
	}
	if g.chance(50) {
		s.DstPort = ipsec.Port(uint16(g.u32()))
	}
	if g.chance(30) {
		s.Interface = 2 + g.IntN(1000)
	}
	s.User = g.u32()
	return s
}

func (g *messages) markOf() *xfrm.Mark {
	if g.chance(60) {
		return nil
	}
	return &xfrm.Mark{Value: g.u32(), Mask: g.u32()}
}

func (g *messages) keyOf() ipsec.Key {
	return ipsec.NewKey([]byte{1, byte(g.Uint32()), byte(g.Uint32())})
}

func (g *messages) algorithm(percent int) *xfrm.Algorithm {
	if !g.chance(percent) {
		return nil
	}
	return &xfrm.Algorithm{Name: g.pick("cbc(aes)", "hmac(sha1)", "x"), Key: g.keyOf()}
}

func (g *messages) limits() xfrm.LifetimeConfig {
	l := xfrm.NoLimits
	if g.chance(50) {
		l = xfrm.LifetimeConfig{SoftBytes: g.Uint64(), HardBytes: 0, SoftPackets: 5, HardPackets: xfrm.Infinity, SoftAdd: uint64(g.u32()), HardAdd: 7, SoftUse: 8, HardUse: g.Uint64()}
	}
	return l
}

func (g *messages) current() xfrm.LifetimeCurrent {
	return xfrm.LifetimeCurrent{Bytes: g.Uint64(), Packets: uint64(g.u32()), AddTime: uint64(g.u32()), UseTime: uint64(g.u32())}
}

func (g *messages) secCtx() *xfrm.SecCtx {
	if g.chance(85) {
		return nil
	}
	return &xfrm.SecCtx{Alg: 1, DOI: 1, Context: "system_u:object_r"}
}

func (g *messages) state() *xfrm.State {
	v6 := g.chance(40)
	s := &xfrm.State{
		Src: g.address(v6), Dst: g.address(v6), SPI: ipsec.SPI(g.u32()), Reqid: g.u32(), Seq: g.u32(),
		Proto: []uint8{50, 50, 50, 51, 108, 43, 60, 255, 77}[g.IntN(9)], Mode: xfrm.Mode(g.IntN(6)),
		Flags: xfrm.StateFlag(g.u32()) &^ xfrm.FlagESN, ExtraFlags: g.u32(), Limits: g.limits(), Current: g.current(),
		Stats: xfrm.StateStats{ReplayWindow: g.u32(), Replay: g.u32(), IntegrityFailed: g.u32()},
		Crypt: g.algorithm(30), Auth: g.algorithm(30), Comp: g.algorithm(10), Mark: g.markOf(), SecCtx: g.secCtx(),
		Dir: xfrm.StateDir(g.IntN(3)), ReplayWindow: uint32(g.IntN(33)),
	}
	if s.Comp != nil {
		s.Comp.Key = ipsec.Key{}
	}
	if g.chance(40) {
		s.AEAD = &xfrm.AEAD{Name: xfrm.AEADName, Key: g.keyOf(), ICVBits: g.u32()}
	}
	if g.chance(20) {
		s.AuthTrunc = &xfrm.AuthTrunc{Name: "hmac(sha256)", Key: g.keyOf(), TruncBits: g.u32()}
	}
	if g.chance(40) {
		s.OutputMark = &xfrm.Mark{Value: g.u32(), Mask: g.Uint32() &^ 1}
	}
	if g.chance(30) {
		s.Sel = g.selector()
	}
	if g.chance(30) {
		s.Encap = &xfrm.EncapTmpl{Type: []xfrm.EncapType{1, 2, 7, 9}[g.IntN(4)], SrcPort: uint16(g.u32()), DstPort: uint16(g.u32()), OA: g.address(v6)}
	}
	if g.chance(15) {
		s.CoAddr = g.address(v6)
	}
	if g.chance(20) {
		s.Offload = &xfrm.Offload{Ifindex: int32(2 + g.IntN(1000)), Flags: xfrm.OffloadFlag(g.IntN(8))}
	}
	if g.chance(30) {
		s.IfID, s.TFCPad, s.LastUsed = g.u32(), g.u32(), uint64(g.u32())
	}
	g.replay(s)
	return s
}

func (g *messages) replay(s *xfrm.State) {
	switch g.IntN(3) {
	case 0:
		s.Replay = &xfrm.ReplayState{Seq: g.u32(), OSeq: g.u32(), Bitmap: []uint32{g.u32()}}
	case 1:
		s.Flags |= xfrm.FlagESN
		s.ReplayWindow = uint32(1 + g.IntN(1024))
		s.Replay = &xfrm.ReplayState{Seq: g.u32(), OSeq: g.u32(), SeqHi: g.u32(), OSeqHi: g.u32()}
		for range (s.ReplayWindow + 31) / 32 {
			s.Replay.Bitmap = append(s.Replay.Bitmap, g.Uint32()|1)
		}
	}
}

func (g *messages) policy() *xfrm.Policy {
	p := &xfrm.Policy{
		Sel: g.selector(), Limits: g.limits(), Current: g.current(), Priority: g.u32(), Index: g.u32(), Dir: xfrm.PolicyDir(g.IntN(6)),
		Action: xfrm.PolicyAction(g.IntN(3)), Flags: xfrm.PolicyFlag(g.u32()), Type: xfrm.PolicySub, Mark: g.markOf(), SecCtx: g.secCtx(),
		Share: xfrm.Share(g.IntN(5)),
	}
	for range g.IntN(4) {
		v6 := g.chance(40)
		family := uint16(unix.AF_INET)
		if v6 {
			family = unix.AF_INET6
		}
		p.Tmpls = append(p.Tmpls, xfrm.Tmpl{
			Src: g.address(v6), Dst: g.address(v6), Family: family, Proto: []uint8{50, 51, 108, 43, 60, 255}[g.IntN(6)], SPI: ipsec.SPI(g.u32()),
			Mode: xfrm.Mode(g.IntN(6)), Reqid: g.u32(), Optional: g.chance(50), Share: xfrm.Share(g.IntN(5)), AAlgos: g.u32(), EAlgos: g.u32(), CAlgos: g.u32(),
		})
	}
	if g.chance(20) {
		p.Offload = &xfrm.Offload{Ifindex: int32(2 + g.IntN(1000)), Flags: xfrm.OffloadPacket}
	}
	if g.chance(30) {
		p.IfID = g.u32()
	}
	return p
}

func (g *messages) message(t *testing.T) netlink.Message {
	var b []byte
	var err error
	kinds := []xfrm.MsgType{
		xfrm.MsgNewSA, xfrm.MsgNewSA, xfrm.MsgUpdSA, xfrm.MsgDelSA, xfrm.MsgExpire, xfrm.MsgFlushSA, xfrm.MsgNewPolicy, xfrm.MsgNewPolicy,
		xfrm.MsgUpdPolicy, xfrm.MsgDelPolicy, xfrm.MsgPolExpire, xfrm.MsgFlushPolicy, xfrm.MsgAcquire, xfrm.MsgNewAE, xfrm.MsgMapping,
		xfrm.MsgReport, xfrm.MsgMigrate, xfrm.MsgGetDefault, 0x99,
	}
	typ := kinds[g.IntN(len(kinds))]
	switch typ {
	case xfrm.MsgNewSA, xfrm.MsgUpdSA:
		b, err = xfrm.EncodeState(g.state())
	case xfrm.MsgDelSA:
		b, err = xfrm.EncodeStateDeleted(g.state())
	case xfrm.MsgExpire:
		b, err = xfrm.EncodeStateExpired(g.state(), g.chance(50))
	case xfrm.MsgFlushSA:
		b = xfrm.EncodeFlushStates([]uint8{0, 50, 51, 108, 255, 77}[g.IntN(6)])
	case xfrm.MsgNewPolicy, xfrm.MsgUpdPolicy:
		b, err = xfrm.EncodePolicy(g.policy())
	case xfrm.MsgDelPolicy:
		b, err = xfrm.EncodePolicyDeleted(g.policy())
	case xfrm.MsgPolExpire:
		b, err = xfrm.EncodePolicyExpired(g.policy(), g.chance(50))
	case xfrm.MsgFlushPolicy:
		b, err = xfrm.EncodeFlushPolicies(xfrm.PolicyType(1 + g.IntN(3)))
	case xfrm.MsgAcquire:
		p := g.policy()
		v6 := p.Sel.Family == unix.AF_INET6
		if len(p.Tmpls) > 0 {
			v6 = p.Tmpls[0].Family == unix.AF_INET6
		}
		b, err = xfrm.EncodeAcquire(&xfrm.Acquire{
			ID: xfrm.StateID{Src: g.address(v6), Dst: g.address(v6), Proto: 50, SPI: ipsec.SPI(g.IntN(2))}, Sel: p.Sel, Policy: p,
			AAlgos: g.u32(), EAlgos: g.u32(), CAlgos: g.u32(), Seq: g.u32(),
		})
	case xfrm.MsgNewAE:
		s := g.state()
		b, err = xfrm.EncodeAEvent(&xfrm.AEvent{ID: s.ID(), Flags: xfrm.AEFlag(g.u32()), Reqid: g.u32(), Current: &s.Current})
	case xfrm.MsgMapping:
		s := g.state()
		v6 := s.Dst.Is6()
		b, err = xfrm.EncodeMapping(&xfrm.Mapping{ID: s.ID(), Reqid: g.u32(), OldSrc: g.address(v6), NewSrc: g.address(v6), OldPort: uint16(g.u32()), NewPort: uint16(g.u32())})
	case xfrm.MsgReport:
		sel := g.selector()
		b, err = xfrm.EncodeReport([]uint8{50, 51, 60}[g.IntN(3)], &sel)
	case xfrm.MsgMigrate:
		id := g.policy().ID()
		b, err = xfrm.EncodeMigration(&xfrm.Migration{ID: id, Moves: []xfrm.Move{{
			OldSrc: g.address(false), OldDst: g.address(false), NewSrc: g.address(false), NewDst: g.address(false), Proto: 50}}})
	case xfrm.MsgGetDefault: // the kernel's are padded
		b = append(xfrm.EncodeDefaults(xfrm.Defaults{In: xfrm.DefaultAction(1 + g.IntN(2)), Fwd: 1, Out: 2}), 0)
	}
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", typ, err))
	}
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.HeaderFlags(g.IntN(4))}, Data: b}
}
