package observe

import (
	"context"
	"testing"

	"espalier/ipsec"
	"espalier/lint"
	"espalier/xfrm"
)

// What follows from SAs and policies is found anew if one of them is another at the end, and else kept.
func TestRelationsHold(t *testing.T) {
	state := func(change func(*xfrm.State)) []*xfrm.State {
		s := out(1, 7, 5)
		s.Mark = &xfrm.Mark{Value: 1}
		if change != nil {
			change(s)
		}
		return []*xfrm.State{out(9, 0, 1), s}
	}
	r := relate(state(nil), &facts{})
	for name, change := range map[string]func(*xfrm.State){
		"the same": nil,
		"more sent": func(s *xfrm.State) {
			s.Current.Packets, s.Current.Bytes, s.Current.UseTime, s.LastUsed, s.Replay.OSeq = 9, 900, 8, 9, 9
			s.Stats = xfrm.StateStats{Replay: 1}
		},
	} {
		if !r.hold(state(change)) {
			t.Errorf("%s: they do not hold", name)
		}
	}
	for name, change := range map[string]func(*xfrm.State){
		"SPI":               func(s *xfrm.State) { s.SPI++ },
		"source":            func(s *xfrm.State) { s.Src = there },
		"destination":       func(s *xfrm.State) { s.Dst = here },
		"protocol":          func(s *xfrm.State) { s.Proto = 51 },
		"mode":              func(s *xfrm.State) { s.Mode = xfrm.ModeTunnel },
		"reqid":             func(s *xfrm.State) { s.Reqid++ },
		"time of the add":   func(s *xfrm.State) { s.Current.AddTime++ },
		"direction":         func(s *xfrm.State) { s.Dir = 0 },
		"interface id":      func(s *xfrm.State) { s.IfID++ },
		"window":            func(s *xfrm.State) { s.ReplayWindow++ },
		"larval":            func(s *xfrm.State) { s.AEAD = nil },
		"mark":              func(s *xfrm.State) { s.Mark = nil },
		"offload":           func(s *xfrm.State) { s.Offload = nil },
		"offload of others": func(s *xfrm.State) { s.Offload.Flags = xfrm.OffloadPacket },
		"numbers received":  func(s *xfrm.State) { s.Replay.Seq++ },
	} {
		if r.hold(state(change)) {
			t.Errorf("%s: they hold", name)
		}
	}
	if r.hold(state(nil)[:1]) || (*relations)(nil).hold(nil) {
		t.Error("they hold without an SA")
	}
}

// An SA that gets another reqid within the interval leaves its policy without one.
func TestFindingsAtTheEnd(t *testing.T) {
	inNamespace(t, func(int, int) error {
		p := &xfrm.Policy{Sel: xfrm.Selector{Selector: ipsec.Selector{}}, Dir: xfrm.PolicyIn,
			Tmpls: []xfrm.Tmpl{{Proto: 50, Reqid: 1}}}
		with, without := out(1, 0, 1), out(1, 0, 1)
		with.Reqid, without.Reqid = 1, 2
		o, err := Open(&fakeSAD{readings: [][]*xfrm.State{{with}, {without}}, policies: []*xfrm.Policy{p}}, true)
		if err != nil {
			return err
		}
		defer o.Close()
		seen, err := o.During(t.Context(), func(context.Context) error { return nil })
		if err != nil {
			return err
		}
		if len(seen.Findings) == 0 || seen.Findings[0].ID != lint.ReqidMismatch {
			t.Errorf("%+v", seen.Findings)
		}
		return nil
	})
}
