package esp

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"espalier/ipsec"
)

const (
	testSPI  = 0x28f39549
	cycle    = uint64(1) << 32
	protoTCP = 6
)

var (
	testKey  = []byte("\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f")
	testSalt = []byte("\xa1\xb2\xc3\xd4")
)

// testSA is an SA that both constructors take; change changes it first.
func testSA(change ...func(*ipsec.SA)) *ipsec.SA {
	sa := &ipsec.SA{
		Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), SPI: testSPI,
		Key: ipsec.NewKey(append(bytes.Clone(testKey), testSalt...)), ICVBits: 128, Window: 64,
	}
	for _, f := range change {
		f(sa)
	}
	return sa
}

func withESN(sa *ipsec.SA)    { sa.ESN = true }
func withTunnel(sa *ipsec.SA) { sa.Mode = ipsec.Tunnel }

func withICV(bits int) func(*ipsec.SA)    { return func(sa *ipsec.SA) { sa.ICVBits = bits } }
func withWindow(n uint32) func(*ipsec.SA) { return func(sa *ipsec.SA) { sa.Window = n } }
func afterNumber(n uint64) func(*ipsec.SA) {
	return func(sa *ipsec.SA) { sa.Counters.Sent, sa.Counters.Received = n, n }
}

func newOutbound(t testing.TB, sa *ipsec.SA) *Outbound {
	t.Helper()
	o, err := NewOutbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func newInbound(t testing.TB, sa *ipsec.SA) *Inbound {
	t.Helper()
	in, err := NewInbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// rawSeal builds an ESP packet from RFC 4303 §2 and RFC 4106 §3–§5 alone, without any code
// of the package: any IV, any plaintext, pad and trailer included.
func rawSeal(t testing.TB, sa *ipsec.SA, seq uint64, iv uint64, text []byte) []byte {
	t.Helper()
	secret := sa.Key.ExposeSecretBytes()
	block, err := aes.NewCipher(secret[:len(secret)-4])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithTagSize(block, sa.ICVBits/8)
	if err != nil {
		t.Fatal(err)
	}
	aad := binary.BigEndian.AppendUint32(nil, uint32(sa.SPI))
	if sa.ESN {
		aad = binary.BigEndian.AppendUint32(aad, uint32(seq>>32))
	}
	aad = binary.BigEndian.AppendUint32(aad, uint32(seq))
	pkt := binary.BigEndian.AppendUint32(nil, uint32(sa.SPI))
	pkt = binary.BigEndian.AppendUint32(pkt, uint32(seq))
	pkt = binary.BigEndian.AppendUint64(pkt, iv)
	nonce := binary.BigEndian.AppendUint64(bytes.Clone(secret[len(secret)-4:]), iv)
	return gcm.Seal(pkt, nonce, text, aad)
}

// withTrailer adds padding to a multiple of 4, pad length and next header to a payload.
func withTrailer(payload []byte, nextHeader uint8) []byte {
	text := bytes.Clone(payload)
	pad := byte(0)
	for (len(text)+2)%4 != 0 {
		pad++
		text = append(text, pad)
	}
	return append(text, pad, nextHeader)
}

// send lays out and seals one packet per payload, with the next numbers.
func send(t testing.TB, o *Outbound, nextHeader uint8, payloads ...[]byte) [][]byte {
	t.Helper()
	first, err := o.Reserve(len(payloads))
	if err != nil {
		t.Fatal(err)
	}
	var pkts [][]byte
	for i, payload := range payloads {
		pkt := bytes.Repeat([]byte{0xee}, o.Len(len(payload)))
		copy(pkt[HeaderLen+IVLen:], payload)
		o.Lay(pkt, len(payload), first+uint64(i), nextHeader)
		pkts = append(pkts, pkt)
	}
	if err := o.Seal(new(Batch), pkts, first); err != nil {
		t.Fatal(err)
	}
	return pkts
}

// open hands copies of the packets over as one batch.
func open(in *Inbound, pkts ...[]byte) []Packet {
	batch := make([]Packet, len(pkts))
	for i := range pkts {
		batch[i].Data = bytes.Clone(pkts[i])
	}
	in.Open(new(Batch), batch)
	return batch
}

func openOne(in *Inbound, pkt []byte) Packet { return open(in, pkt)[0] }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + n)
	}
	return b
}
