package xfrm

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// mustEncode is EncodeState for states that are known to be good.
func mustEncode(t testing.TB, s *State) []byte {
	t.Helper()
	b, err := EncodeState(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// attr is one attribute, as it lies in a message.
func attr(typ uint16, data []byte) []byte {
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(typ, data)
	b, err := ae.Encode()
	if err != nil {
		panic(err)
	}
	return b
}

func TestWithheldKey(t *testing.T) {
	b := mustEncode(t, &State{
		Dst: plainState(t, 1, nil).Dst, Limits: NoLimits, Proto: 50, SPI: 1,
		AEAD: &AEAD{Name: AEADName, KeyBits: 288, ICVBits: 128},
	})
	if want := sizeUsersaInfo + 4 + sizeAEAD + 36; len(b) != want {
		t.Errorf("%d bytes, want %d: the zero key must have its length", len(b), want)
	}
	s, err := DecodeState(b)
	if err != nil {
		t.Fatal(err)
	}
	if s.AEAD.Key.Len() != 0 || s.AEAD.KeyBits != 288 {
		t.Errorf("key of %d bytes, %d bits; want none of 288 bits", s.AEAD.Key.Len(), s.AEAD.KeyBits)
	}
	sa, err := s.SA()
	if err != nil || sa.Key.Len() != 0 {
		t.Errorf("a withheld key must read as an SA without key: %v", err)
	}
}

// TestRefusedStateKey: a message that is refused leaves no key in memory, and neither does the
// first of two keys.
func TestRefusedStateKey(t *testing.T) {
	secret := bytes.Repeat([]byte{0xa5}, 36)
	data := make([]byte, sizeAEAD+len(secret))
	copy(data, AEADName)
	host.PutUint32(data[64:], 288)
	host.PutUint32(data[68:], 128)
	copy(data[sizeAEAD:], secret)
	wiped := func(k ipsec.Key) bool { return allZero(k.ExposeSecretBytes()) }

	var s State
	if _, err := getStateAttrs(&s, unix.AF_INET, attr(attrAEAD, data)); err != nil || s.AEAD.Key.Len() != len(secret) || wiped(s.AEAD.Key) {
		t.Fatalf("a good message: %v", err)
	}
	first := s.AEAD.Key
	if _, err := getStateAttrs(&s, unix.AF_INET, attr(attrAEAD, data)); err != nil || !wiped(first) {
		t.Errorf("%v; is the first of two keys wiped? %v", err, wiped(first))
	}
	bad := append(attr(attrAEAD, data), attr(attrIfID, []byte{1})...)
	if _, err := getStateAttrs(&s, unix.AF_INET, bad); err == nil || !wiped(s.AEAD.Key) {
		t.Errorf("%v; is the key of a message that is refused wiped? %v", err, wiped(s.AEAD.Key))
	}
}

// TestReplayForms: which struct carries the window, and that both are read alike.
func TestReplayForms(t *testing.T) {
	for _, c := range []struct {
		window uint32
		flags  StateFlag
		replay *ReplayState
		legacy uint8
		attr   uint16 // 0: none
	}{
		{window: 0},
		{window: 32, legacy: 32},
		{window: 32, legacy: 32, replay: &ReplayState{OSeq: 9, Bitmap: []uint32{1}}, attr: attrReplayVal},
		{window: 33, attr: attrReplayESN},
		{window: 32, flags: FlagESN, attr: attrReplayESN},
		{window: 0, flags: FlagESN, attr: attrReplayESN},
		{window: 4096, attr: attrReplayESN},
		{window: 8, replay: &ReplayState{SeqHi: 1, Bitmap: []uint32{1}}, attr: attrReplayESN},
	} {
		b := mustEncode(t, plainState(t, 1, func(s *State) { s.ReplayWindow, s.Flags, s.Replay = c.window, c.flags, c.replay }))
		if b[215] != c.legacy {
			t.Errorf("window %d flags %#x: legacy byte %d, want %d", c.window, c.flags, b[215], c.legacy)
		}
		var got uint16
		eachAttr(b[sizeUsersaInfo:], func(typ uint16, _ []byte) error {
			if typ == attrReplayVal || typ == attrReplayESN {
				got = typ
			}
			return nil
		})
		if got != c.attr {
			t.Errorf("window %d flags %#x: attribute %d, want %d", c.window, c.flags, got, c.attr)
		}
		s, err := DecodeState(b)
		if err != nil || s.ReplayWindow != c.window {
			t.Errorf("window %d flags %#x: read back %+v, %v", c.window, c.flags, s, err)
		}
	}
	if _, err := EncodeState(plainState(t, 1, func(s *State) { s.ReplayWindow = 4097 })); !errors.Is(err, ipsec.ErrInvalid) {
		t.Errorf("window 4097: %v", err)
	}
}

// words lays numbers out in host byte order.
func words(v ...uint32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, w := range v {
		b = host.AppendUint32(b, w)
	}
	return b
}

// TestDecodeRefuses: messages that lie about themselves.
func TestDecodeRefuses(t *testing.T) {
	good := mustEncode(t, plainState(t, 0x1000, nil))
	info := good[:sizeUsersaInfo]
	change := func(at int, v byte) []byte {
		b := append([]byte(nil), good...)
		b[at] = v
		return b
	}
	esn := func(n, window uint32, bitmap int) []byte {
		w := make([]uint32, 6+bitmap)
		w[0], w[5] = n, window
		return append(append([]byte(nil), info...), attr(attrReplayESN, words(w...))...)
	}
	with := func(typ uint16, data []byte) []byte { return append(append([]byte(nil), info...), attr(typ, data)...) }
	algo := func(name string, bits uint32, key int) []byte {
		b := make([]byte, sizeAEAD+key)
		copy(b, name)
		host.PutUint32(b[64:], bits)
		return b
	}
	for _, c := range []struct {
		name    string
		payload []byte
		want    string
	}{
		{"empty", nil, "too short"},
		{"half a struct", good[:100], "too short"},
		{"address family", change(212, 77), "address family 77"},
		{"selector family", change(40, 77), "address family 77"},
		{"prefix length", func() []byte { b := change(40, 2); b[42] = 33; return b }(), "prefix lengths"},
		{"ESN without its attribute", change(216, uint8(FlagESN)), "ESN needs"},
		{"cut attribute header", good[:sizeUsersaInfo+2], "attributes"},
		{"cut attribute", good[:sizeUsersaInfo+20], "attributes"},
		{"short AEAD", with(attrAEAD, make([]byte, sizeAEAD-1)), "XFRMA_ALG_AEAD"},
		{"name without end", with(attrAEAD, algo(strings.Repeat("a", 64), 0, 0)), "XFRMA_ALG_AEAD"},
		{"key longer than attribute", with(attrAEAD, algo("x", 64, 7)), "64 bits in 7 bytes"},
		{"key of half bytes", with(attrAEAD, algo("x", 12, 8)), "12 bits"},
		{"bitmap too long", esn(129, 1, 129), "at most 128"},
		{"bitmap cut", esn(4, 128, 2), "XFRMA_REPLAY_ESN_VAL"},
		{"window wider than bitmap", esn(1, 33, 1), "window of 33"},
		{"direction", with(attrSADir, []byte{3}), "direction 3"},
		{"no direction", with(attrSADir, nil), "XFRMA_SA_DIR"},
		{"mark", with(attrMark, make([]byte, 4)), "XFRMA_MARK"},
		{"offload", with(attrOffload, make([]byte, 5)), "XFRMA_OFFLOAD_DEV"},
		{"encap", with(attrEncap, make([]byte, 8)), "XFRMA_ENCAP"},
		{"if_id", with(attrIfID, make([]byte, 2)), "XFRMA_IF_ID"},
	} {
		if s, err := DecodeState(c.payload); !errors.Is(err, ipsec.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v; want an error with %q", c.name, s, err, c.want)
		}
	}
	// A bitmap that is left out is zero.
	s, err := DecodeState(esn(4, 128, 0))
	if err != nil || s.ReplayWindow != 128 || len(s.Replay.Bitmap) != 4 {
		t.Errorf("bitmap left out: %+v, %v", s, err)
	}
}

// The kernel sends a larval SA's selector with addresses but without a family.
func TestLarvalSelector(t *testing.T) {
	b := mustEncode(t, plainState(t, 0x1000, nil))
	copy(b[0:], []byte{10, 0, 0, 2})
	copy(b[16:], []byte{10, 0, 0, 1})
	b[42], b[43] = 32, 32
	host.PutUint16(b[40:], unix.AF_UNSPEC)
	s, err := DecodeState(b)
	if err != nil || s.Sel.Src.String() != "10.0.0.1/32" || s.Sel.Dst.String() != "10.0.0.2/32" || s.Sel.Family != unix.AF_INET {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestPolicyDecodeRefuses(t *testing.T) {
	good, err := EncodePolicy(goldenPolicies()["policy-tunnel"])
	if err != nil {
		t.Fatal(err)
	}
	info := good[:sizePolicyInfo]
	with := func(typ uint16, data []byte) []byte { return append(append([]byte(nil), info...), attr(typ, data)...) }
	family := append([]byte(nil), good...)
	family[sizePolicyInfo+4+24] = 9
	for name, b := range map[string][]byte{
		"empty":             nil,
		"half a struct":     good[:90],
		"half a template":   with(attrTmpl, make([]byte, sizeTmpl/2)),
		"seven templates":   with(attrTmpl, make([]byte, sizeTmpl*7)),
		"template's family": family,
		"short type":        with(attrPolicyType, make([]byte, 2)),
	} {
		if p, err := DecodePolicy(b); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// TestTemplateFamily: addresses without a family are of the selector's.
func TestTemplateFamily(t *testing.T) {
	b, err := EncodePolicy(goldenPolicies()["policy-tunnel"])
	if err != nil {
		t.Fatal(err)
	}
	b[sizePolicyInfo+4+24] = 0
	p, err := DecodePolicy(b)
	if err != nil || !reflect.DeepEqual(p, goldenPolicies()["policy-tunnel"]) {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestMessages(t *testing.T) {
	var b []byte
	for i := range 3 {
		b = AppendMessage(b, netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(MsgFlushSA), Sequence: uint32(i)}, Data: []byte{50}})
	}
	if len(b) != 60 {
		t.Fatalf("%d bytes", len(b))
	}
	for cut := range len(b) + 1 {
		whole, failed := 0, false
		for m, err := range Messages(b[:cut]) {
			if err != nil {
				failed = true
			} else if string(m.Data) != "2" || m.Header.Sequence != uint32(whole) {
				t.Fatalf("cut at %d: message %d is %+v", cut, whole, m)
			} else {
				whole++
			}
		}
		// The padding after a message may be missing.
		wantWhole := (cut + 3) / 20
		if wantFailed := cut%20 != 0 && cut%20 < 17; whole != wantWhole || failed != wantFailed {
			t.Errorf("cut at %d: %d messages, failed %v; want %d, %v", cut, whole, failed, wantWhole, wantFailed)
		}
	}
}

func TestMsgTypeString(t *testing.T) {
	for typ, want := range map[MsgType]string{MsgNewSA: "NEWSA", MsgUpdSA: "UPDSA", MsgGetSPDInfo: "GETSPDINFO", MsgGetDefault: "GETDEFAULT", 0x99: "message type 0x99", 1: "message type 0x1"} {
		if got := typ.String(); got != want {
			t.Errorf("%#x: %q, want %q", uint16(typ), got, want)
		}
	}
	if MsgGetDefault != 0x28 || MsgFlushSA != 0x1c || GroupMapping != 8 {
		t.Error("constants are shifted")
	}
}

// TestEvents: notifications built as the kernel builds them.
func TestEvents(t *testing.T) {
	s := goldenStates(t)["state-all"]
	p := goldenPolicies()["policy-tunnel"]
	event := func(typ MsgType, b []byte, err error) Event {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		e, err := DecodeEvent(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ)}, Data: b})
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		if e.Kind != typ {
			t.Errorf("%s: kind %s", typ, e.Kind)
		}
		return e
	}
	b, err := EncodeStateDeleted(s)
	if e := event(MsgDelSA, b, err); !reflect.DeepEqual(e.State, s) || !reflect.DeepEqual(*e.StateID, s.ID()) {
		t.Errorf("DELSA: %+v %+v", e.State, e.StateID)
	}
	b, err = EncodePolicyDeleted(p)
	if e := event(MsgDelPolicy, b, err); !reflect.DeepEqual(e.Policy, p) || *e.PolicyID != p.ID() {
		t.Errorf("DELPOLICY: %+v %+v", e.Policy, e.PolicyID)
	}
	// The expiry of an ESN state carries the flag without the replay attribute.
	esn := mustEncode(t, goldenStates(t)["state-esn"])
	b = append(append(esn[:sizeUsersaInfo:sizeUsersaInfo], 1, 0, 0, 0, 0, 0, 0, 0), attr(attrMark, words(1, 2))...)
	if e := event(MsgExpire, b, nil); !e.Hard || e.State.Flags&FlagESN == 0 || *e.State.Mark != (Mark{1, 2}) {
		t.Errorf("EXPIRE: %+v", e)
	}
	pol, err := EncodePolicy(p)
	b = append(append(pol[:sizePolicyInfo:sizePolicyInfo], make([]byte, 8)...), pol[sizePolicyInfo:]...)
	if e := event(MsgPolExpire, b, err); e.Hard || !reflect.DeepEqual(e.Policy, p) {
		t.Errorf("POLEXPIRE: %+v", e.Policy)
	}
	acq := make([]byte, sizeAcquire)
	putID(acq, p.Tmpls[0].Dst, 0, 50)
	putAddr(acq[24:], p.Tmpls[0].Src)
	copy(acq[40:96], pol[:56])
	copy(acq[96:], pol[:sizePolicyInfo])
	host.PutUint32(acq[276:], 77)
	e := event(MsgAcquire, append(acq, pol[sizePolicyInfo:]...), nil)
	if e.Seq != 77 || e.StateID.Dst != p.Tmpls[0].Dst || e.StateID.Src != p.Tmpls[0].Src || !reflect.DeepEqual(e.Policy, p) || *e.Sel != p.Sel {
		t.Errorf("ACQUIRE: %+v", e)
	}
	if e := event(MsgFlushSA, []byte{50}, nil); e.Proto != 50 {
		t.Errorf("FLUSHSA: %+v", e)
	}
	if _, err := DecodeEvent(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(MsgDelSA)}, Data: make([]byte, 10)}); !errors.Is(err, ipsec.ErrInvalid) {
		t.Errorf("cut DELSA: %v", err)
	}
}
