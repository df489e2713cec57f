package xfrm

import (
	"bytes"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"pgregory.net/rapid"
)

// eventPayloads are one payload of each message that is not a state or policy itself.
func eventPayloads(t testing.TB) map[MsgType][]byte {
	t.Helper()
	s, p := goldenStates(t)["state-all"], goldenPolicies()["policy-tunnel"]
	v4 := netip.MustParseAddr
	window := uint32(5)
	payloads := map[MsgType][]byte{MsgGetDefault: EncodeDefaults(Defaults{DefaultBlock, DefaultAccept, DefaultUnspec})}
	add := func(typ MsgType, b []byte, err error) {
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		payloads[typ] = b
	}
	add2 := func(typ MsgType) func([]byte, error) { return func(b []byte, err error) { add(typ, b, err) } }
	add2(MsgAllocSPI)(EncodeSPIRange(&SPIRange{State: spiRangeState(s), Min: 5, Max: 9}))
	add2(MsgExpire)(EncodeStateExpired(s, true))
	add2(MsgPolExpire)(EncodePolicyExpired(p, false))
	add2(MsgAcquire)(EncodeAcquire(&Acquire{ID: StateID{Src: s.Src, Dst: s.Dst, Proto: 50}, Sel: p.Sel, Policy: p, AAlgos: 1, EAlgos: 2, CAlgos: 3, Seq: 4}))
	add2(MsgNewAE)(EncodeAEvent(&AEvent{ID: s.ID(), Flags: AEByTimer, Reqid: 7, Replay: &ReplayState{Seq: 1, OSeq: 2, Bitmap: []uint32{3}},
		Current: &s.Current, ReplayThresh: &window, TimerThresh: &window, PCPU: &window}))
	add2(MsgMapping)(EncodeMapping(&Mapping{ID: s.ID(), Reqid: 3, OldSrc: v4("10.0.0.1"), NewSrc: v4("10.0.0.2"), OldPort: 4500, NewPort: 4501}))
	add2(MsgReport)(EncodeReport(50, &p.Sel))
	add2(MsgMigrate)(EncodeMigration(&Migration{
		ID: p.ID(), KM: &KMAddress{v4("10.0.0.3"), v4("10.0.0.4")}, Encap: &EncapTmpl{Type: EncapESPInUDP, SrcPort: 1, DstPort: 2, OA: v4("0.0.0.0")},
		Moves:   []Move{{v4("10.0.0.1"), v4("10.0.0.2"), v4("10.1.0.1"), v4("10.1.0.2"), 50, ModeTunnel, 9}},
		Offload: &Offload{Ifindex: 3, Flags: OffloadPacket},
	}))
	add2(MsgNewSPDInfo)(EncodeSPDInfo(SPDInfo{In: 1, Thresholds: Thresholds{IPv4: &Threshold{24, 16}, IPv6: &Threshold{64, 48}}}))
	return payloads
}

// TestEventsComeBack: what is encoded is what is decoded, field by field.
func TestEventsComeBack(t *testing.T) {
	payloads := eventPayloads(t)
	decode := func(typ MsgType) Event {
		e, err := DecodeEvent(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ)}, Data: payloads[typ]})
		if err != nil {
			t.Fatalf("%s: %v", typ, err)
		}
		return e
	}
	ae := decode(MsgNewAE).AE
	if ae.Flags != AEByTimer || ae.Replay.OSeq != 2 || *ae.ReplayThresh != 5 || *ae.PCPU != 5 || ae.ESN || ae.Reqid != 7 {
		t.Errorf("NEWAE: %+v", ae)
	}
	if m := decode(MsgMapping); m.Mapping.OldPort != 4500 || m.NewPort != 4501 || m.NewSrc.String() != "10.0.0.2" || m.Reqid != 3 {
		t.Errorf("MAPPING: %+v", m.Mapping)
	}
	m := decode(MsgMigrate).Migration
	if len(m.Moves) != 1 || m.Moves[0].NewDst.String() != "10.1.0.2" || m.Moves[0].Reqid != 9 || m.KM.Remote.String() != "10.0.0.4" || m.Encap.DstPort != 2 || m.Offload.Ifindex != 3 {
		t.Errorf("MIGRATE: %+v", m)
	}
	if d := decode(MsgGetDefault).Defaults; *d != (Defaults{In: DefaultBlock, Fwd: DefaultAccept}) {
		t.Errorf("GETDEFAULT: %+v", d)
	}
	if a := decode(MsgAcquire).Acquire; a.EAlgos != 2 || a.Seq != 4 || !reflect.DeepEqual(a.Policy, goldenPolicies()["policy-tunnel"]) {
		t.Errorf("ACQUIRE: %+v", a)
	}
	if e := decode(MsgExpire); !e.Hard || *e.State.Mark != *goldenStates(t)["state-all"].Mark || e.State.AEAD != nil {
		t.Errorf("EXPIRE: %+v", e.State)
	}
	if e := decode(MsgPolExpire); e.Hard || !reflect.DeepEqual(e.Policy, goldenPolicies()["policy-tunnel"]) {
		t.Errorf("POLEXPIRE: %+v", e.Policy)
	}
	r, err := DecodeSPIRange(payloads[MsgAllocSPI])
	if err != nil || r.Min != 5 || r.Max != 9 || !reflect.DeepEqual(r.State, spiRangeState(goldenStates(t)["state-all"])) {
		t.Errorf("ALLOCSPI: %+v, %v", r, err)
	}
	if i, err := DecodeSPDInfo(payloads[MsgNewSPDInfo]); err != nil || *i.IPv4 != (Threshold{24, 16}) || *i.IPv6 != (Threshold{64, 48}) {
		t.Errorf("SPDINFO: %+v, %v", i, err)
	}
}

// TestCutEvents: no payload cut short is read beyond its end, and none that lacks its struct is
// taken.
func TestCutEvents(t *testing.T) {
	sizes := map[MsgType]int{MsgAllocSPI: sizeUserSPIInfo, MsgExpire: sizeExpire, MsgPolExpire: sizePolExpire, MsgAcquire: sizeAcquire,
		MsgNewAE: sizeAEventID, MsgMapping: sizeMapping, MsgReport: sizeReport, MsgMigrate: sizePolicyID, MsgGetDefault: 3, MsgNewSPDInfo: 4}
	for typ, payload := range eventPayloads(t) {
		for n := range payload {
			cut := slices.Clip(payload[:n:n])
			var err error
			switch typ {
			case MsgAllocSPI:
				_, err = DecodeSPIRange(cut)
			case MsgNewSPDInfo:
				_, err = DecodeSPDInfo(cut)
			default:
				_, err = DecodeEvent(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ)}, Data: cut})
			}
			if n < sizes[typ] && err == nil {
				t.Fatalf("%s: %d of %d bytes are taken", typ, n, sizes[typ])
			}
		}
	}
}

// TestUnknownAttributes: they are counted, and change nothing else.
func TestUnknownAttributes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genState(t)
		b, err := EncodeState(s)
		if err != nil {
			t.Fatal(err)
		}
		typ := rapid.Uint16Range(42, 1<<14-1).Draw(t, "type")
		data := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data")
		got, err := DecodeState(append(bytes.Clone(b), attr(typ, data)...))
		if err != nil {
			t.Fatal(err)
		}
		want, err := DecodeState(b)
		if err != nil {
			t.Fatal(err)
		}
		if want.Other = append(want.Other, typ); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
	})
}
