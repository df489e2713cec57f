package outage

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

const device = 7

func state(spi ipsec.SPI, f func(*xfrm.State)) *xfrm.State {
	s := &xfrm.State{
		Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: unix.IPPROTO_ESP, SPI: spi, Reqid: 3,
		AEAD:    &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.RandomKey(36), KeyBits: 288, ICVBits: 128},
		Offload: &xfrm.Offload{Ifindex: device},
	}
	if f != nil {
		f(s)
	}
	return s
}

func spis(sas []SA) (list []ipsec.SPI) {
	for _, sa := range sas {
		list = append(list, sa.SPI)
	}
	return list
}

func TestTrackerEvents(t *testing.T) {
	deleted := func(spi ipsec.SPI) *xfrm.Event {
		id := state(spi, nil).ID()
		return &xfrm.Event{Kind: xfrm.MsgDelSA, StateID: &id}
	}
	expired := func(spi ipsec.SPI, hard bool) *xfrm.Event {
		s := state(spi, nil)
		id := s.ID()
		return &xfrm.Event{Kind: xfrm.MsgExpire, State: s, StateID: &id, Hard: hard}
	}
	installed := func(s *xfrm.State) *xfrm.Event { return &xfrm.Event{Kind: xfrm.MsgNewSA, State: s} }
	for _, tt := range []struct {
		name   string
		events []*xfrm.Event
		want   []ipsec.SPI
	}{
		{"as dumped", nil, []ipsec.SPI{1, 2}},
		{"added", []*xfrm.Event{installed(state(9, nil))}, []ipsec.SPI{1, 2, 9}},
		{"added in software", []*xfrm.Event{installed(state(9, func(s *xfrm.State) { s.Offload = nil }))}, []ipsec.SPI{1, 2}},
		{"added on another device", []*xfrm.Event{installed(state(9, func(s *xfrm.State) { s.Offload.Ifindex = 8 }))}, []ipsec.SPI{1, 2}},
		{"same SPI, other mark", []*xfrm.Event{installed(state(1, func(s *xfrm.State) { s.Mark = &xfrm.Mark{Value: 1, Mask: 1} })), deleted(1)}, []ipsec.SPI{2, 1}},
		{"updated", []*xfrm.Event{{Kind: xfrm.MsgUpdSA, State: state(1, nil)}}, []ipsec.SPI{1, 2}},
		{"again in software", []*xfrm.Event{deleted(1), installed(state(1, func(s *xfrm.State) { s.Offload = nil }))}, []ipsec.SPI{2}},
		{"deleted", []*xfrm.Event{deleted(1)}, []ipsec.SPI{2}},
		{"soft limit", []*xfrm.Event{expired(1, false)}, []ipsec.SPI{1, 2}},
		{"hard limit", []*xfrm.Event{expired(1, true)}, []ipsec.SPI{2}},
		{"flushed", []*xfrm.Event{{Kind: xfrm.MsgFlushSA}}, nil},
		{"flushed ESP", []*xfrm.Event{{Kind: xfrm.MsgFlushSA, Proto: unix.IPPROTO_ESP}}, nil},
		{"flushed AH", []*xfrm.Event{{Kind: xfrm.MsgFlushSA, Proto: unix.IPPROTO_AH}}, []ipsec.SPI{1, 2}},
	} {
		tr := newTracker()
		tr.state(state(1, nil))
		tr.state(state(2, nil))
		for _, e := range tt.events {
			tr.event(e)
		}
		if got := spis(tr.on(device)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestTrackerWipesKeys(t *testing.T) {
	s := state(1, nil)
	newTracker().event(&xfrm.Event{Kind: xfrm.MsgNewSA, State: s})
	if !s.AEAD.Key.Equal(ipsec.NewKey(make([]byte, 36))) {
		t.Error("the key of an event stays in memory")
	}
}

func TestTrackerLinks(t *testing.T) {
	at := func(up, carrier bool) linkMessage {
		return linkMessage{index: device, link: link{"p4p1", up, carrier}}
	}
	gone := linkMessage{index: device, link: link{name: "p4p1"}, gone: true}
	for _, tt := range []struct {
		name    string
		changes []linkMessage
		bare    bool // no SA is offloaded
		want    []LinkState
	}{
		{name: "nothing new", changes: []linkMessage{at(true, true), at(true, true)}},
		{name: "down and up", changes: []linkMessage{at(true, true), at(false, false), at(true, false), at(true, true)}, want: []LinkState{Down, Up}},
		{name: "cable", changes: []linkMessage{at(true, true), at(true, false), at(true, true)}, want: []LinkState{NoCarrier, Carrier}},
		{name: "cable, then down", changes: []linkMessage{at(true, true), at(true, false), at(false, false)}, want: []LinkState{NoCarrier, Down}},
		{name: "removed", changes: []linkMessage{at(true, true), at(false, false), gone}, want: []LinkState{Down, Gone}},
		{name: "removed at once", changes: []linkMessage{at(true, true), gone}, want: []LinkState{Gone}},
		{name: "no SAs", bare: true, changes: []linkMessage{at(true, true), at(true, false), at(false, false), at(true, true), gone}},
		{name: "first seen", changes: []linkMessage{at(false, false)}},
	} {
		tr := newTracker()
		if !tt.bare {
			tr.state(state(1, nil))
		}
		var got []LinkState
		for _, m := range tt.changes {
			s, concerns := tr.change(m)
			if concerns {
				got = append(got, s)
			}
			if concerns && (s == Down || s == Gone) {
				tr.lose(device, nil)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestTrackerLose(t *testing.T) {
	tr := newTracker()
	tr.state(state(1, nil))
	tr.state(state(2, nil))
	tr.state(state(3, func(s *xfrm.State) { s.Offload.Ifindex = 8 }))
	lost, kept := tr.lose(device, map[identity]bool{identityOf(state(2, nil).ID()): true})
	if !slices.Equal(spis(lost), []ipsec.SPI{1}) || !slices.Equal(spis(kept), []ipsec.SPI{2}) || len(tr.on(8)) != 1 {
		t.Errorf("lost %v, kept %v, on the other device %v", lost, kept, tr.on(8))
	}
	if lost, _ := tr.lose(device, map[identity]bool{identityOf(state(2, nil).ID()): true}); lost != nil {
		t.Errorf("lost twice: %v", lost)
	}
}

func TestDecodeLink(t *testing.T) {
	data := make([]byte, unix.SizeofIfInfomsg)
	data[4], data[8] = device, unix.IFF_UP
	data = append(data, 9, 0, unix.IFLA_IFNAME, 0, 'p', '4', 'p', '1', 0, 0, 0, 0)
	message := func(typ netlink.HeaderType, data []byte) netlink.Message {
		return netlink.Message{Header: netlink.Header{Type: typ}, Data: data}
	}
	got, ok, err := decodeLink(message(unix.RTM_NEWLINK, data))
	if want := (linkMessage{index: device, link: link{name: "p4p1", up: true}}); !ok || err != nil || got != want {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	if got, ok, _ := decodeLink(message(unix.RTM_DELLINK, data)); !ok || !got.gone {
		t.Errorf("RTM_DELLINK: %+v, %v", got, ok)
	}
	port := slices.Clone(data)
	port[0] = unix.AF_BRIDGE
	if _, ok, err := decodeLink(message(unix.RTM_DELLINK, port)); ok || err != nil {
		t.Errorf("of a bridge's port: %v, %v", ok, err)
	}
	for n := range unix.SizeofIfInfomsg {
		if _, _, err := decodeLink(message(unix.RTM_NEWLINK, data[:n])); err == nil {
			t.Errorf("%d bytes are enough", n)
		}
	}
	broken := slices.Clone(data)
	broken[16] = 200
	if _, _, err := decodeLink(message(unix.RTM_NEWLINK, broken)); err == nil {
		t.Error("an attribute longer than the message is taken")
	}
}
