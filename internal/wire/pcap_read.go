package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// PcapReader reads IP packets from the classic pcap format, as tcpdump -w and PcapWriter write it.
// What is no IP, such as ARP, it leaves out.
type PcapReader struct {
	r     io.Reader
	order binary.ByteOrder
	link  func(frame []byte) (packet []byte)
	frame []byte
}

// ErrPcapNG is the answer to the format that dumpcap and Wireshark write unless asked.
var ErrPcapNG = errors.New("a capture in the pcapng format: write it with tcpdump -w, or dumpcap -P")

const (
	pcapMagicMicro = 0xa1b2c3d4
	pcapngMagic    = 0x0a0d0d0a
	maxFrame       = 1 << 18 // what tcpdump takes for a whole packet
)

// NewPcapReader reads the file's header.
func NewPcapReader(r io.Reader) (*PcapReader, error) {
	var h [24]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, fmt.Errorf("read the header of the capture: %w", err)
	}
	p := &PcapReader{r: r, order: binary.LittleEndian}
	switch magic := p.order.Uint32(h[:]); magic {
	case pcapMagicMicro, pcapMagicNano:
	case pcapngMagic:
		return nil, ErrPcapNG
	default:
		p.order = binary.BigEndian
		if magic := p.order.Uint32(h[:]); magic != pcapMagicMicro && magic != pcapMagicNano {
			return nil, errors.New("not a capture in the pcap format")
		}
	}
	// The upper bits may tell of a checksum at the end of each frame.
	linkType := p.order.Uint32(h[20:]) & 0xffff
	if p.link = links[linkType]; p.link == nil {
		return nil, fmt.Errorf("a capture of link type %d: Ethernet, raw IP and tcpdump's `any` device can be read", linkType)
	}
	return p, nil
}

// Next is the next IP packet, valid until the call after, and whether it is whole: a capture may
// hold the beginnings of packets only, which get zeros for the rest. The error is io.EOF behind the
// last one, and io.ErrUnexpectedEOF for a capture that ends within a packet.
func (p *PcapReader) Next() (packet []byte, whole bool, err error) {
	for {
		var h [16]byte
		if _, err := io.ReadFull(p.r, h[:]); err != nil {
			return nil, false, err
		}
		captured, length := p.order.Uint32(h[8:]), p.order.Uint32(h[12:])
		if captured > maxFrame {
			return nil, false, fmt.Errorf("the capture says that a frame has %d bytes: it is damaged", captured)
		}
		if cap(p.frame) < int(captured) {
			p.frame = make([]byte, captured)
		}
		p.frame = p.frame[:captured]
		if _, err := io.ReadFull(p.r, p.frame); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, false, err
		}
		packet = p.link(p.frame)
		switch {
		case len(packet) == 0:
		case captured < length:
			return pad(packet), false, nil
		default:
			return packet, true, nil
		}
	}
}

// links take the IP packet out of a frame, by link type (tcpdump.org/linktypes.html); nil if there
// is none.
var links = map[uint32]func([]byte) []byte{
	1:           ethernet,
	12:          rawIP, // OpenBSD's number for it
	linkTypeRaw: rawIP,
	113:         func(f []byte) []byte { return cooked(f, 14, 16) }, // Linux "cooked", of tcpdump -i any
	276:         func(f []byte) []byte { return cooked(f, 0, 20) },  // its second version
}

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
)

func ethernet(f []byte) []byte {
	const addresses, tag = 12, 4
	for f = f[min(len(f), addresses):]; len(f) >= 2; f = f[min(len(f), tag):] {
		switch binary.BigEndian.Uint16(f) {
		case etherIPv4, etherIPv6:
			return rawIP(f[2:])
		case etherVLAN, etherQinQ:
		default:
			return nil
		}
	}
	return nil
}

// cooked is a frame whose header tells the protocol at one place and ends at another.
func cooked(f []byte, protocol, header int) []byte {
	if len(f) < header {
		return nil
	}
	switch binary.BigEndian.Uint16(f[protocol:]) {
	case etherIPv4, etherIPv6:
		return rawIP(f[header:])
	}
	return nil
}

func rawIP(f []byte) []byte {
	if len(f) == 0 || f[0]>>4 != 4 && f[0]>>4 != 6 {
		return nil
	}
	return f
}
