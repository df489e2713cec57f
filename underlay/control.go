package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var errOptions = errors.New("malformed IP options or extension headers")

// describe writes the control messages that make the message's IP header, leaving room
// for UDP_SEGMENT.
func (s *UDPSender) describe(m *Message, scope uint32) ([]byte, error) {
	w := controlWriter{buf: s.control}
	src := m.Src.Addr().Unmap()
	if !s.socket.v6 {
		if len(m.Options) > 40 || len(m.Options)%4 != 0 {
			return nil, fmt.Errorf("send to %v: %w", m.Dst, errOptions)
		}
		if src.IsValid() && !src.IsUnspecified() {
			a := src.As4()
			copy(w.add(unix.SOL_IP, unix.IP_PKTINFO, pktinfo4Len)[4:], a[:])
		}
		w.addInt(unix.SOL_IP, unix.IP_TOS, m.TOS)
		w.addInt(unix.SOL_IP, unix.IP_TTL, m.TTL)
		if len(m.Options) > 0 {
			copy(w.add(unix.SOL_IP, unix.IP_RETOPTS, len(m.Options)), m.Options)
		}
		return w.bytes(), nil
	}
	if src.IsValid() && !src.IsUnspecified() {
		a, info := src.As16(), w.add(unix.SOL_IPV6, unix.IPV6_PKTINFO, pktinfo6Len)
		copy(info, a[:])
		binary.NativeEndian.PutUint32(info[16:], scope)
	}
	w.addInt(unix.SOL_IPV6, unix.IPV6_TCLASS, m.TOS)
	w.addInt(unix.SOL_IPV6, unix.IPV6_HOPLIMIT, m.TTL)
	if m.FlowLabel != 0 {
		binary.BigEndian.PutUint32(w.add(unix.SOL_IPV6, ipv6FlowInfo, 4), m.FlowLabel&0xfffff)
	}
	for _, e := range [...]struct {
		kind  int32
		bytes []byte
	}{{unix.IPV6_HOPOPTS, m.HopByHop}, {unix.IPV6_RTHDR, m.Routing}, {unix.IPV6_DSTOPTS, m.Destination}} {
		if len(e.bytes) == 0 {
			continue
		}
		if len(e.bytes) < 8 || len(e.bytes) != 8+8*int(e.bytes[1]) {
			return nil, fmt.Errorf("send to %v: %w", m.Dst, errOptions)
		}
		copy(w.add(unix.SOL_IPV6, e.kind, len(e.bytes)), e.bytes)
	}
	return w.bytes(), nil
}

// controlWriter lays out control messages (cmsg(3)) in a buffer that holds them all.
type controlWriter struct {
	buf []byte
	n   int
}

// add appends a message and returns its data, zeroed.
func (w *controlWriter) add(level, kind int32, size int) []byte {
	h := w.buf[w.n:][:cmsgHeaderLen]
	binary.NativeEndian.PutUint64(h, uint64(cmsgHeaderLen+size))
	binary.NativeEndian.PutUint32(h[8:], uint32(level))
	binary.NativeEndian.PutUint32(h[12:], uint32(kind))
	data := w.buf[w.n+cmsgHeaderLen:][:align8(size)]
	clear(data)
	w.n += cmsgHeaderLen + len(data)
	return data[:size:size]
}

// addInt appends an int, where 0 means that the socket's default will do.
func (w *controlWriter) addInt(level, kind int32, v uint8) {
	if v != 0 {
		binary.NativeEndian.PutUint32(w.add(level, kind, 4), uint32(v))
	}
}

func (w *controlWriter) bytes() []byte { return w.buf[:w.n:w.n] }
