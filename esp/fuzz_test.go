package esp

import (
	"bytes"
	"testing"

	"espalier/ipsec"
)

// FuzzOpen feeds what anyone can send: nothing of it may pass, and it must not move the
// window.
func FuzzOpen(f *testing.F) {
	sa := testSA()
	good := rawSeal(f, sa, 5, 5, withTrailer(pattern(30), protoTCP))
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		f.Add(bad, false)
	}
	f.Add([]byte{}, true)
	f.Add(good[:34], true)
	f.Fuzz(func(t *testing.T, data []byte, esn bool) {
		if bytes.Equal(data, good) {
			return
		}
		in := newInbound(t, testSA(func(sa *ipsec.SA) { sa.ESN = esn }))
		pkts := open(in, data, data, append(bytes.Clone(data), 0))
		for _, p := range pkts {
			if !bytes.Equal(p.Data, good) {
				refused(t, "not from the peer", p)
			}
		}
		if in.Highest() != 0 && !bytes.Equal(append(bytes.Clone(data), 0), good) {
			t.Error("the window moved")
		}
	})
}

// FuzzStrip feeds what a peer that holds the key can send: any plaintext. What is delivered
// is the beginning of that plaintext.
func FuzzStrip(f *testing.F) {
	f.Add(withTrailer(ipv4(60, 60), 4), true)
	f.Add(withTrailer(ipv6(20, 6, 30), 41), true)
	f.Add(withTrailer(udp(20, 30), 17), false)
	f.Add(withTrailer(pattern(7), 6), false)
	f.Add([]byte{0, 59}, false)
	f.Add([]byte{1, 255, 4}, true)
	f.Fuzz(func(t *testing.T, text []byte, tunnel bool) {
		sa := testSA()
		if tunnel {
			sa.Mode = ipsec.Tunnel
		}
		p := openOne(newInbound(t, sa), rawSeal(t, sa, 1, 1, text))
		if p.Err != nil {
			if p.Payload != nil {
				t.Fatalf("%v and yet a payload", p.Err)
			}
			return
		}
		if len(p.Payload) > len(text)-2 || !bytes.HasPrefix(text, p.Payload) || p.NextHeader != text[len(text)-1] {
			t.Fatalf("%x becomes %x, next header %d", text, p.Payload, p.NextHeader)
		}
		if tunnel && (len(p.Payload) < 20 || p.Payload[0]>>4 != map[uint8]byte{4: 4, 41: 6}[p.NextHeader]) {
			t.Fatalf("a tunnel delivers %x as %d", p.Payload, p.NextHeader)
		}
	})
}
