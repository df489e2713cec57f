package esp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"espalier/ipsec"
)

func ipv4(total int, rest int) []byte {
	p := make([]byte, 20+rest)
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(total))
	return p
}

func ipv6(payload int, next uint8, rest int) []byte {
	p := make([]byte, 40+rest)
	p[0], p[6] = 0x60, next
	binary.BigEndian.PutUint16(p[4:], uint16(payload))
	return p
}

func udp(length int, rest int) []byte {
	p := make([]byte, 8+rest)
	binary.BigEndian.PutUint16(p[4:], uint16(length))
	return p
}

func with(p []byte, at int, b byte) []byte { p[at] = b; return p }

// Inner lengths and traffic flow confidentiality padding (RFC 4303 §2.7).
func TestInnerLength(t *testing.T) {
	const transport, tunnel = ipsec.Transport, ipsec.Tunnel
	for _, c := range []struct {
		name    string
		mode    ipsec.Mode
		next    uint8
		payload []byte
		want    int // length delivered
		err     error
	}{
		{"IPv4 exact", tunnel, 4, ipv4(60, 40), 60, nil},
		{"IPv4 with TFC", tunnel, 4, ipv4(60, 400), 60, nil},
		{"IPv4 header only", tunnel, 4, ipv4(20, 0), 20, nil},
		{"IPv4 header only with TFC", tunnel, 4, ipv4(20, 7), 20, nil},
		{"IPv4 with options", tunnel, 4, with(ipv4(24, 4), 0, 0x46), 24, nil},
		{"IPv4 shorter than its options", tunnel, 4, with(ipv4(23, 40), 0, 0x46), 0, ErrLength},
		{"IPv4 longer than the payload", tunnel, 4, ipv4(61, 40), 0, ErrLength},
		{"IPv4 shorter than its header", tunnel, 4, ipv4(19, 40), 0, ErrLength},
		{"IPv4 length 0", tunnel, 4, ipv4(0, 40), 0, ErrLength},
		{"IPv4 header length 4", tunnel, 4, with(ipv4(60, 40), 0, 0x41), 0, ErrLength},
		{"IPv4 cut", tunnel, 4, ipv4(20, 0)[:19], 0, ErrLength},
		{"IPv4 empty", tunnel, 4, nil, 0, ErrLength},
		{"IPv4 says version 6", tunnel, 4, with(ipv4(60, 40), 0, 0x65), 0, ErrNextHeader},
		{"IPv6 exact", tunnel, 41, ipv6(20, 6, 20), 60, nil},
		{"IPv6 with TFC", tunnel, 41, ipv6(20, 6, 300), 60, nil},
		{"IPv6 without payload", tunnel, 41, ipv6(0, 59, 0), 40, nil},
		{"IPv6 without payload with TFC", tunnel, 41, ipv6(0, 59, 20), 40, nil},
		{"IPv6 longer than the payload", tunnel, 41, ipv6(21, 6, 20), 0, ErrLength},
		{"IPv6 jumbogram", tunnel, 41, ipv6(0, 0, 200), 0, ErrLength},
		{"IPv6 cut", tunnel, 41, ipv6(0, 59, 0)[:39], 0, ErrLength},
		{"IPv6 empty", tunnel, 41, nil, 0, ErrLength},
		{"IPv6 says version 4", tunnel, 41, with(ipv6(20, 6, 20), 0, 0x45), 0, ErrNextHeader},
		{"TCP in a tunnel", tunnel, 6, pattern(40), 0, ErrNextHeader},
		{"UDP in a tunnel", tunnel, 17, udp(8, 0), 0, ErrNextHeader},
		{"nothing in a tunnel", tunnel, 6, nil, 0, ErrNextHeader},

		{"TCP", transport, 6, pattern(40), 40, nil},
		{"TCP empty", transport, 6, nil, 0, nil},
		{"UDP exact", transport, 17, udp(28, 20), 28, nil},
		{"UDP with TFC", transport, 17, udp(28, 300), 28, nil},
		{"UDP without data", transport, 17, udp(8, 0), 8, nil},
		{"UDP longer than the payload", transport, 17, udp(29, 20), 0, ErrLength},
		{"UDP shorter than its header", transport, 17, udp(7, 20), 0, ErrLength},
		{"UDP length 0", transport, 17, udp(0, 20), 0, ErrLength},
		{"UDP cut", transport, 17, udp(8, 0)[:7], 0, ErrLength},
		{"UDP empty", transport, 17, nil, 0, nil},
		{"IPv4 in transport mode, TFC", transport, 4, ipv4(60, 41), 60, nil},
		{"IPv6 in transport mode, TFC", transport, 41, ipv6(20, 6, 21), 60, nil},
		{"IPv6 option header", transport, 60, pattern(16), 16, nil},
		{"ICMPv6", transport, 58, pattern(33), 33, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			sa := testSA(func(sa *ipsec.SA) { sa.Mode = c.mode })
			in := newInbound(t, sa)
			p := openOne(in, rawSeal(t, sa, 1, 1, withTrailer(c.payload, c.next)))
			if p.Err != c.err || !bytes.Equal(p.Payload, c.payload[:c.want]) || p.NextHeader != c.next {
				t.Errorf("err %v, next header %d, %d bytes; want %v and %d bytes", p.Err, p.NextHeader, len(p.Payload), c.err, c.want)
			}
			if c.err == nil && cap(p.Payload) != len(p.Payload) {
				t.Error("appending to the payload would reach beyond it")
			}
			if in.Highest() != 1 {
				t.Error("an authentic packet must move the window, whatever it holds")
			}
		})
	}
}

func TestPadding(t *testing.T) {
	long := pattern(10)
	for i := range 255 {
		long = append(long, byte(i+1))
	}
	long = append(long, 255, 6)
	for _, c := range []struct {
		name string
		text []byte
		want []byte
		err  error
	}{
		{"none", []byte{0xaa, 0xbb, 0, 6}, []byte{0xaa, 0xbb}, nil},
		{"three", []byte{0xaa, 0xbb, 0xcc, 1, 2, 3, 3, 6}, []byte{0xaa, 0xbb, 0xcc}, nil},
		{"more than needed", []byte{0xaa, 0xbb, 1, 2, 3, 4, 4, 6}, []byte{0xaa, 0xbb}, nil},
		{"longest", long, pattern(10), nil},
		{"all of the text", []byte{1, 2, 2, 6}, nil, nil},
		{"one more than the text", []byte{1, 2, 3, 6}, nil, ErrPadding},
		{"255 in a short text", []byte{1, 2, 255, 6}, nil, ErrPadding},
		{"zeros", []byte{0xaa, 0xbb, 0xcc, 0, 0, 0, 3, 6}, nil, ErrPadding},
		{"starts at 0", []byte{0xaa, 0xbb, 0xcc, 0, 1, 2, 3, 6}, nil, ErrPadding},
		{"last byte wrong", []byte{0xaa, 0xbb, 0xcc, 1, 2, 4, 3, 6}, nil, ErrPadding},
		{"first byte wrong", []byte{0xaa, 0xbb, 0xcc, 9, 2, 3, 3, 6}, nil, ErrPadding},
		{"trailer alone", []byte{0, 6}, nil, nil},
		{"not aligned", []byte{0xaa, 0, 6}, []byte{0xaa}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			sa := testSA()
			p := openOne(newInbound(t, sa), rawSeal(t, sa, 1, 1, c.text))
			if p.Err != c.err || !bytes.Equal(p.Payload, c.want) {
				t.Errorf("err %v, payload %x; want %v, %x", p.Err, p.Payload, c.err, c.want)
			}
		})
	}
}

// Dummy packets (RFC 4303 §2.6) carry anything at all, in both modes.
func TestDummy(t *testing.T) {
	for _, sa := range []*ipsec.SA{testSA(), testSA(withTunnel)} {
		in := newInbound(t, sa)
		for i, text := range [][]byte{{0, 59}, withTrailer(pattern(100), 59), {9, 9, 200, 59}} {
			p := openOne(in, rawSeal(t, sa, uint64(i+1), 7, text))
			if p.Err != ErrDummy || len(p.Payload) != 0 || p.NextHeader != 59 {
				t.Errorf("%+v", p)
			}
		}
		if c := in.Counters(); c.Received != 3 || c.IntegrityDrops+c.ReplayDrops+c.WindowDrops != 0 {
			t.Errorf("counters %+v", c)
		}
	}
}
