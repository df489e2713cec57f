package wire

import (
	"bufio"
	"encoding/binary"
	"io"
	"time"
)

// PcapWriter writes IP packets in the classic pcap format (link type RAW, nanoseconds), which
// tshark, tcpdump and Scapy read. It is not safe for concurrent use.
type PcapWriter struct {
	w *bufio.Writer
}

const (
	pcapMagicNano = 0xa1b23c4d
	pcapSnapLen   = 1 << 18
	linkTypeRaw   = 101
)

// NewPcapWriter writes the file's header.
func NewPcapWriter(w io.Writer) (*PcapWriter, error) {
	p := &PcapWriter{bufio.NewWriterSize(w, 1<<20)}
	var h [24]byte
	binary.LittleEndian.PutUint32(h[0:], pcapMagicNano)
	binary.LittleEndian.PutUint16(h[4:], 2)
	binary.LittleEndian.PutUint16(h[6:], 4)
	binary.LittleEndian.PutUint32(h[16:], pcapSnapLen)
	binary.LittleEndian.PutUint32(h[20:], linkTypeRaw)
	_, err := p.w.Write(h[:])
	return p, err
}

// Write appends one packet.
func (p *PcapWriter) Write(t time.Time, pkt []byte) error {
	var h [16]byte
	binary.LittleEndian.PutUint32(h[0:], uint32(t.Unix()))
	binary.LittleEndian.PutUint32(h[4:], uint32(t.Nanosecond()))
	binary.LittleEndian.PutUint32(h[8:], uint32(len(pkt)))
	binary.LittleEndian.PutUint32(h[12:], uint32(len(pkt)))
	if _, err := p.w.Write(h[:]); err != nil {
		return err
	}
	_, err := p.w.Write(pkt)
	return err
}

// Flush writes out what is buffered.
func (p *PcapWriter) Flush() error { return p.w.Flush() }
