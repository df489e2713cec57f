package main

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"espalier/internal/inet"
	"espalier/tun"
)

// A frame leaves as packets of protocol 50 whose payload is the segments.
func TestLay(t *testing.T) {
	e := ends{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), net.HardwareAddr(make([]byte, 6)), nil}
	w := &wire{header: outerHeader(e)}
	packet := make([]byte, 40+2500) // IPv4 and TCP
	packet[0], packet[8], packet[9], packet[32], packet[33] = 0x45, 64, 6, 0x50, 0x10
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	header := make([]byte, tun.HeaderLen)
	encode(tun.VirtioHeader{Flags: tun.NeedsChecksum, GSOType: tun.GSOTCPv4, HeaderLength: 40, GSOSize: 1000, ChecksumStart: 20, ChecksumOffset: 16}, header)
	frame := tun.ParseFrame(append(header, packet...))
	s, err := frame.Segmenter()
	if err != nil {
		t.Fatal(err)
	}
	if s.Count() != 3 {
		t.Fatalf("%d segments", s.Count())
	}
	batch := newMessages()
	for i := range 3 {
		copy(batch.slots[i][:], w.header)
		w.lay(batch, i, &s, i)
		sent := batch.slots[i][:batch.iovecs[i].Len]
		h, err := inet.Parse(sent)
		if err != nil || h.Protocol != inet.ProtoESP || h.Total != len(sent) || h.Dst != e.peer || inet.Fold(inet.Sum(sent[:h.Len], 0)) != 0 {
			t.Errorf("packet %d: %+v, %v", i, h, err)
		}
		want := make([]byte, s.Size(i))
		s.Write(want, i)
		if !bytes.Equal(sent[h.Len+espLen:], want) {
			t.Errorf("packet %d is not the segment", i)
		}
	}
}
