package inet

import "encoding/binary"

// SetLength stores the total length of the packet in its IP header and, for IPv4, mends
// the header checksum.
func SetLength(pkt []byte) {
	if pkt[0]>>4 == 4 {
		binary.BigEndian.PutUint16(pkt[2:], uint16(len(pkt)))
		SetIPv4Checksum(pkt)
		return
	}
	binary.BigEndian.PutUint16(pkt[4:], uint16(len(pkt)-IPv6Len))
}

// Fragment cuts pkt, described by h, into packets of at most mtu bytes (RFC 791 §3.2, RFC
// 8200 §4.5) and appends them to dst. id is the identification the IPv6 fragments share;
// IPv4 fragments keep the packet's own. The caller has checked that the packet may be
// fragmented. A mtu that leaves no room for eight bytes of payload yields nothing.
func Fragment(dst [][]byte, pkt []byte, h *Header, mtu int, id uint32) [][]byte {
	head := h.PerFragment
	extra := 0
	if h.Version == 6 {
		extra = FragmentLen
	}
	room := (mtu - head - extra) &^ 7
	if room < 8 {
		return dst
	}
	body := pkt[head:h.Total]
	for at := 0; at < len(body); at += room {
		n := min(room, len(body)-at)
		more := at+n < len(body)
		f := make([]byte, head+extra+n)
		copy(f, pkt[:head])
		copy(f[head+extra:], body[at:at+n])
		if h.Version == 6 {
			frag := f[head : head+FragmentLen]
			frag[0] = f[h.PerFragmentNextAt]
			f[h.PerFragmentNextAt] = ProtoFragment
			binary.BigEndian.PutUint16(frag[2:], uint16(at)|bit(more, 1))
			binary.BigEndian.PutUint32(frag[4:], id)
		} else {
			offset := (h.FragOffset + at) / 8
			binary.BigEndian.PutUint16(f[6:], uint16(offset)|bit(more || h.MoreFragments, 0x2000))
			if at > 0 {
				dropUncopiedOptions(f[IPv4Len:head])
			}
		}
		SetLength(f)
		dst = append(dst, f)
	}
	return dst
}

func bit(set bool, v uint16) uint16 {
	if set {
		return v
	}
	return 0
}

// dropUncopiedOptions overwrites with no-operation the options that only the first
// fragment carries: those without the copied flag (RFC 791 §3.1).
func dropUncopiedOptions(opts []byte) {
	for i := 0; i < len(opts); {
		switch opts[i] {
		case 0: // end of options
			return
		case 1: // no operation
			i++
			continue
		}
		if i+1 >= len(opts) || opts[i+1] < 2 || i+int(opts[i+1]) > len(opts) {
			return
		}
		n := int(opts[i+1])
		if opts[i]&0x80 == 0 {
			for j := range n {
				opts[i+j] = 1
			}
		}
		i += n
	}
}
