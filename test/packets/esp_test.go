package packets

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
)

// TestDraftVectors opens packets of draft-mcgrew-gcm-test-01: what this package calls ESP is
// not only what it makes itself.
func TestDraftVectors(t *testing.T) {
	for _, c := range []struct {
		name, key string // AES key and salt
		spi       uint32
		high      uint32
		esn       bool
		packet    string
		payload   string
	}{
		{
			name: "AES-128, 64-bit numbers", key: "4c80cdefbb5d10da906ac73c3613a634" + "2e443b68", spi: 0x4321, high: 0x87654321, esn: true,
			packet: "00004321" + "00000000" + "4956ed7e3b244cfe" +
				"fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34" +
				"cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce" +
				"61bc17d768fd9732459018148f6cbe722fd04796562dfdb4",
			payload: "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000" +
				"00000000045f736970045f756470037369700963796265726369747902646b0000210001",
		},
		{
			name: "AES-256", key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab" + "11223344", spi: 0x4a2cbfe3,
			packet: "4a2cbfe3" + "00000002" + "0102030405060708" +
				"ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763" +
				"748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c4915956c96",
			payload: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000" +
				"7002400020bf0000020405b401010402",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			sa := SA{SPI: c.spi, Key: unhex(t, c.key), ESN: c.esn}
			pkt := unhex(t, c.packet)
			_, _, payload, err := sa.Open(pkt, c.high)
			if err != nil || !bytes.Equal(payload, unhex(t, c.payload)) {
				t.Errorf("opened %x, %v", payload, err)
			}
			pkt[len(pkt)-1] ^= 1
			if _, _, _, err := sa.Open(pkt, c.high); err == nil {
				t.Error("a changed ICV opened")
			}
		})
	}
}

func TestSealOpens(t *testing.T) {
	for _, icv := range []int{8, 12, 16} {
		for n := range 9 {
			sa := SA{SPI: 0x1000, Key: bytes.Repeat([]byte{7}, 36), ICVLen: icv, ESN: true}
			want := bytes.Repeat([]byte{9}, n)
			seq, next, got, err := sa.Open(sa.Seal(1<<32+5, UDPProto, want), 1)
			if err != nil || seq != 1<<32+5 || next != UDPProto || !bytes.Equal(got, want) {
				t.Errorf("ICV of %d, %d bytes: %d, %d, %x, %v", icv, n, seq, next, got, err)
			}
		}
	}
}

// TestHeaders compares with packets written out by hand.
func TestHeaders(t *testing.T) {
	a4, b4 := netip.MustParseAddr("192.168.1.64"), netip.MustParseAddr("192.168.1.65")
	a6, b6 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"IPv4", IP{Src: a4, Dst: b4, Proto: ESP, TOS: 0xb8, TTL: 9, ID: 0x1234, DF: true, Options: []byte{0x94, 4, 0, 0}}.Packet([]byte{1, 2}),
			"46b8001a12344000" + "0932" + "45f0" + "c0a80140c0a80141" + "94040000" + "0102"},
		{"IPv6", IP{Src: a6, Dst: b6, Proto: ESP, TOS: 0xb8, FlowLabel: 0x12345, Ext: []Ext{{HopByHop, []byte{1, 4, 0, 0, 0, 0}}}}.Packet([]byte{1}),
			"6b812345" + "0009" + "00" + "40" + "fd000000000000000000000000000001" + "fd000000000000000000000000000002" + "3200010400000000" + "01"},
		{"UDP", UDP(netip.AddrPortFrom(a4, 1), netip.AddrPortFrom(b4, 2), []byte{3}), "000100020009790703"},
	} {
		if !bytes.Equal(c.got, unhex(t, c.want)) {
			t.Errorf("%s: %x, want %s", c.name, c.got, c.want)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
