package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"
)

// capture is a file as tcpdump writes it.
func capture(order binary.AppendByteOrder, magic, linkType uint32, frames ...[]byte) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(order.AppendUint16(b, 2), 4)
	b = append(b, make([]byte, 8)...)
	b = order.AppendUint32(order.AppendUint32(b, 1<<18), linkType)
	for _, f := range frames {
		b = append(b, make([]byte, 8)...) // the time
		b = order.AppendUint32(order.AppendUint32(b, uint32(len(f))), uint32(len(f)))
		b = append(b, f...)
	}
	return b
}

func readAll(t *testing.T, file []byte) (packets [][]byte) {
	t.Helper()
	r, err := NewPcapReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, whole, err := r.Next()
		if errors.Is(err, io.EOF) {
			return packets
		}
		if err != nil || !whole {
			t.Fatal(err, whole)
		}
		packets = append(packets, bytes.Clone(p))
	}
}

func TestPcapReader(t *testing.T) {
	v4, v6 := packet(a4, b4, 17, udp(1, 2)...), packet(a6, b6, 17, udp(1, 2)...)
	macs := make([]byte, 12)
	frame := func(head []byte, words ...uint16) []byte {
		f := bytes.Clone(head)
		for _, w := range words {
			f = binary.BigEndian.AppendUint16(f, w)
		}
		return f
	}
	arp := append(frame(macs, 0x0806), make([]byte, 28)...)
	sll2 := append(append([]byte{0x86, 0xdd}, make([]byte, 18)...), v6...)
	for name, c := range map[string]struct {
		file []byte
		want [][]byte
	}{
		"empty":                {capture(binary.LittleEndian, pcapMagicMicro, 1), nil},
		"Ethernet, big endian": {capture(binary.BigEndian, pcapMagicNano, 1, append(frame(macs, 0x0800), v4...), arp, append(frame(macs, 0x86dd), v6...)), [][]byte{v4, v6}},
		"VLAN tags":            {capture(binary.LittleEndian, pcapMagicMicro, 1, append(frame(macs, 0x88a8, 7, 0x8100, 8, 0x0800), v4...)), [][]byte{v4}},
		"raw":                  {capture(binary.LittleEndian, pcapMagicNano, 101, v4, v6, []byte{0x10}, nil), [][]byte{v4, v6}},
		"cooked":               {capture(binary.LittleEndian, pcapMagicMicro, 113, append(frame(make([]byte, 14), 0x0800), v4...), make([]byte, 3)), [][]byte{v4}},
		"cooked, 2nd version":  {capture(binary.LittleEndian, pcapMagicMicro, 276, sll2), [][]byte{v6}},
		"runts":                {capture(binary.LittleEndian, pcapMagicMicro, 1, nil, macs[:5], macs, frame(macs, 0x8100), frame(macs, 0x0800)), nil},
	} {
		got := readAll(t, c.file)
		if len(got) != len(c.want) {
			t.Errorf("%s: %d packets, want %d", name, len(got), len(c.want))
			continue
		}
		for i := range got {
			if !bytes.Equal(got[i], c.want[i]) {
				t.Errorf("%s: packet %d is %x, want %x", name, i, got[i], c.want[i])
			}
		}
	}
}

// What PcapWriter has written comes back.
func TestPcapThereAndBack(t *testing.T) {
	var file bytes.Buffer
	w, err := NewPcapWriter(&file)
	if err != nil {
		t.Fatal(err)
	}
	pkt := packet(a4, b4, 50, 1, 2, 3, 4)
	if err := errors.Join(w.Write(time.Unix(1, 2), pkt), w.Flush()); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, file.Bytes()); len(got) != 1 || !bytes.Equal(got[0], pkt) {
		t.Errorf("%x, want %x", got, pkt)
	}
}

func TestPcapReaderRefusals(t *testing.T) {
	good := capture(binary.LittleEndian, pcapMagicMicro, 101, packet(a4, b4, 17, udp(1, 2)...))
	if _, err := NewPcapReader(bytes.NewReader(capture(binary.LittleEndian, pcapngMagic, 1))); !errors.Is(err, ErrPcapNG) {
		t.Errorf("pcapng: %v", err)
	}
	for name, file := range map[string][]byte{"nothing": nil, "text": bytes.Repeat([]byte("text"), 9), "Bluetooth": capture(binary.LittleEndian, pcapMagicMicro, 187)} {
		if _, err := NewPcapReader(bytes.NewReader(file)); err == nil {
			t.Errorf("%s was taken for a capture", name)
		}
	}
	for cut := len(good) - 1; cut > 24; cut-- {
		r, err := NewPcapReader(bytes.NewReader(good[:cut]))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut to %d bytes: %v", cut, err)
		}
	}
	// A frame of which the beginning was captured is not whole.
	binary.LittleEndian.PutUint32(good[24+12:], 9000)
	r, err := NewPcapReader(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if _, whole, err := r.Next(); err != nil || whole {
		t.Errorf("whole: %v, %v", whole, err)
	}
	binary.LittleEndian.PutUint32(good[24+8:], 1<<30)
	if r, err = NewPcapReader(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Next(); err == nil {
		t.Error("a frame of 1 GiB was read")
	}
}

func FuzzPcapReader(f *testing.F) {
	f.Add(capture(binary.LittleEndian, pcapMagicMicro, 1, append(make([]byte, 12), 0x08, 0x00, 0x45)))
	f.Add(capture(binary.BigEndian, pcapMagicNano, 276, make([]byte, 40)))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := NewPcapReader(bytes.NewReader(file))
		for err == nil {
			var p []byte
			if p, _, err = r.Next(); err == nil && p[0]>>4 != 4 && p[0]>>4 != 6 {
				t.Fatalf("%x is no IP packet", p)
			}
		}
	})
}
