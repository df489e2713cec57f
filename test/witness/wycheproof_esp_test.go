package witness

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"espalier/esp"
	"espalier/ipsec"
)

const (
	espSPI  = 0x28f39549
	espHigh = 7 // upper half of the sequence numbers, with ESN
)

// espSA is an SA with the key of a case; the first four bytes of its IV are the salt
// (RFC 4106 §4).
func espSA(c *wycheproofCase, spi ipsec.SPI, esn bool) *ipsec.SA {
	sa := &ipsec.SA{
		Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), SPI: spi,
		Mode: ipsec.Tunnel, Key: ipsec.NewKey(append(bytes.Clone(c.key), c.iv[:4]...)), ICVBits: 128, ESN: esn,
	}
	if esn {
		sa.Window = 64
		sa.Counters.Sent, sa.Counters.Received = espHigh<<32, espHigh<<32
	}
	return sa
}

// openOne has the receiving half of sa open one packet.
func openOne(t *testing.T, sa *ipsec.SA, pkt []byte) esp.Packet {
	t.Helper()
	in, err := esp.NewInbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	pkts := []esp.Packet{{Data: bytes.Clone(pkt)}}
	in.Open(new(esp.Batch), pkts)
	return pkts[0]
}

// TestWycheproofAsESP reads the cases whose additional data are 8 bytes as ESP packets: SPI and
// sequence number, the rest of the nonce as IV. Their messages end in no ESP trailer; so the
// padding is at fault, but only after the ICV was found good.
func TestWycheproofAsESP(t *testing.T) {
	implementations(t, func(t *testing.T) {
		cases, _ := wycheproofCases(t)
		fit := 0
		for i := range cases {
			c := &cases[i]
			if len(c.aad) != esp.HeaderLen || len(c.msg) < 2 {
				continue
			}
			spi := ipsec.SPI(binary.BigEndian.Uint32(c.aad))
			if spi < 256 || binary.BigEndian.Uint32(c.aad[4:]) == 0 {
				continue
			}
			fit++
			pkt := append(append(bytes.Clone(c.aad), c.iv[4:]...), c.sealed()...)
			got := openOne(t, espSA(c, spi, false), pkt)
			if valid := c.Result == "valid"; errors.Is(got.Err, esp.ErrIntegrity) == valid {
				t.Errorf("case %d (%s) is %s: %v", c.ID, c.Comment, c.Result, got.Err)
			}
			pkt[len(pkt)-1] ^= 1
			if got := openOne(t, espSA(c, spi, false), pkt); !errors.Is(got.Err, esp.ErrIntegrity) {
				t.Errorf("case %d with a bit of the tag flipped: %v", c.ID, got.Err)
			}
		}
		if fit == 0 {
			t.Error("no case fits into an ESP header")
		}
		t.Logf("%d cases", fit)
	})
}

// handmade is an ESP packet in tunnel mode by the letters of RFC 4303 and RFC 4106, without
// any code of this project.
func handmade(t *testing.T, c *wycheproofCase, esn bool, seq uint32, iv, inner []byte) []byte {
	t.Helper()
	text := bytes.Clone(inner)
	pad := byte(0)
	for ; (len(text)+2)%4 != 0; pad++ {
		text = append(text, pad+1)
	}
	text = append(text, pad, 4) // next header: IPv4
	header := binary.BigEndian.AppendUint32(nil, espSPI)
	aad := bytes.Clone(header)
	if esn {
		aad = binary.BigEndian.AppendUint32(aad, espHigh)
	}
	header = binary.BigEndian.AppendUint32(header, seq)
	aad = binary.BigEndian.AppendUint32(aad, seq)
	block, err := aes.NewCipher(c.key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := append(bytes.Clone(c.iv[:4]), iv...)
	return gcm.Seal(append(header, iv...), nonce, text, aad)
}

// innerPacket is an IPv4 packet around data.
func innerPacket(data []byte) []byte {
	pkt := make([]byte, 20, 20+len(data))
	pkt[0], pkt[8], pkt[9] = 0x45, 64, 253 // protocol for experiments, RFC 3692
	binary.BigEndian.PutUint16(pkt[2:], uint16(20+len(data)))
	copy(pkt[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return append(pkt, data...)
}

// TestWycheproofKeys makes ESP packets by hand with every key, IV and message of the cases:
// they open to the message, and our own are the same to the last bit.
func TestWycheproofKeys(t *testing.T) {
	implementations(t, func(t *testing.T) {
		cases, _ := wycheproofCases(t)
		for i := range cases {
			for _, esn := range []bool{false, true} {
				checkHandmade(t, &cases[i], esn)
			}
		}
	})
}

func checkHandmade(t *testing.T, c *wycheproofCase, esn bool) {
	t.Helper()
	inner := innerPacket(c.msg)
	got := openOne(t, espSA(c, espSPI, esn), handmade(t, c, esn, 1, c.iv[4:], inner))
	if got.Err != nil || !bytes.Equal(got.Payload, inner) || got.NextHeader != 4 {
		t.Errorf("case %d, ESN %v: opened to %x (%v), want %x", c.ID, esn, got.Payload, got.Err, inner)
	}
	if got := openOne(t, espSA(c, espSPI, !esn), handmade(t, c, esn, 1, c.iv[4:], inner)); !errors.Is(got.Err, esp.ErrIntegrity) {
		t.Errorf("case %d, ESN %v here and %v there: %v", c.ID, esn, !esn, got.Err)
	}
	out, err := esp.NewOutbound(espSA(c, espSPI, esn))
	if err != nil {
		t.Fatal(err)
	}
	seq, err := out.Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	pkt := make([]byte, out.Len(len(inner)))
	copy(pkt[esp.HeaderLen+esp.IVLen:], inner)
	out.Lay(pkt, len(inner), seq, 4)
	iv := bytes.Clone(pkt[esp.HeaderLen:][:esp.IVLen])
	if err := out.Seal(new(esp.Batch), [][]byte{pkt}, seq); err != nil {
		t.Fatal(err)
	}
	if want := handmade(t, c, esn, uint32(seq), iv, inner); !bytes.Equal(pkt, want) {
		t.Errorf("case %d, ESN %v: sealed to %x, by hand %x", c.ID, esn, pkt, want)
	}
}
