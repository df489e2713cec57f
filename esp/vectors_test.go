package esp

import (
	"bytes"
	"testing"

	"espalier/ipsec"
)

// Whole packets made by pyca/cryptography's AES-GCM from the field layout of RFC 4106. Scapy's
// ESP layer makes the same of the two with a 128-bit ICV.
func TestPacketsOfOtherImplementations(t *testing.T) {
	for _, c := range []struct {
		name    string
		sa      *ipsec.SA
		payload string
		packet  string
	}{
		{"32-bit numbers", testSA(afterNumber(6)), "espalier!",
			"28f39549000000070000000000000007" + "3b59fbe7d467d18dd2b3bf68" + "26df3f961613f022bae2255f1912fcdc"},
		{"64-bit numbers", testSA(withESN, afterNumber(cycle+1)), "espalier!",
			"28f39549000000020000000100000002" + "669df5b9731307d22c7ecf06" + "c14570f65a42eac150ef108d3cca15a4"},
		{"ICV of 96 bits", testSA(withICV(96), afterNumber(6)), "espalier!",
			"28f39549000000070000000000000007" + "3b59fbe7d467d18dd2b3bf68" + "26df3f961613f022bae2255f"},
		{"ICV of 64 bits", testSA(withICV(64), afterNumber(6)), "espalier!",
			"28f39549000000070000000000000007" + "3b59fbe7d467d18dd2b3bf68" + "26df3f961613f022"},
		{"ICV of 64 bits, 64-bit numbers", testSA(withESN, withICV(64), afterNumber(cycle+1)), "espalier!",
			"28f39549000000020000000100000002" + "669df5b9731307d22c7ecf06" + "c14570f65a42eac1"},
		{"last number, empty payload", testSA(afterNumber(cycle - 2)), "",
			"28f39549ffffffff00000000ffffffff" + "a584cf31" + "d37c931901e7f9d601a2ec134e1403f9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := unhex(t, c.packet)
			if got := send(t, newOutbound(t, c.sa), protoTCP, []byte(c.payload))[0]; !bytes.Equal(got, want) {
				t.Errorf("sealed\n got %x\nwant %x", got, want)
			}
			p := openOne(newInbound(t, c.sa), want)
			if p.Err != nil || string(p.Payload) != c.payload || p.NextHeader != protoTCP || p.Seq != c.sa.Counters.Received+1 {
				t.Errorf("opened %+v", p)
			}
		})
	}
}

// The test cases of draft-mcgrew-gcm-test-01 §4 as received packets: their IVs are not
// sequence numbers. Next header is 1 (ICMP) in all of them. The two cases with SPIs below
// 256 are not SAs here.
func TestDraftVectors(t *testing.T) {
	for _, c := range []struct {
		name, key, salt string
		esn             bool
		seq             uint64
		packet          string // SPI, sequence number, IV, ciphertext, ICV
		payload         string
	}{
		{
			name: "AES-128, 64-bit numbers", key: "4c80cdefbb5d10da906ac73c3613a634", salt: "2e443b68",
			esn: true, seq: 0x8765432100000000,
			packet: "00004321" + "00000000" + "4956ed7e3b244cfe" +
				"fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34" +
				"cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce" +
				"61bc17d768fd9732459018148f6cbe722fd04796562dfdb4",
			payload: "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000" +
				"00000000045f736970045f756470037369700963796265726369747902646b0000210001",
		},
		{
			name: "AES-128, no padding", key: "feffe9928665731c6d6a8f9467308308", salt: "cafebabe",
			seq: 10,
			packet: "0000a5f8" + "0000000a" + "facedbaddecaf888" +
				"deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c" +
				"3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd1" +
				"83b70d3aa8bc6ee4c309e9d85a41ad4a",
			payload: "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d00100" +
				"0001000000000000037369700963796265726369747902646b0000010001",
		},
		{
			name: "AES-256", key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab", salt: "11223344",
			seq: 2,
			packet: "4a2cbfe3" + "00000002" + "0102030405060708" +
				"ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763" +
				"748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c4915956c96",
			payload: "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000" +
				"7002400020bf0000020405b401010402",
		},
		{
			name: "AES-192", key: "feffe9928665731c6d6a8f9467308308feffe9928665731c", salt: "cafebabe",
			seq: 10,
			packet: "0000a5f8" + "0000000a" + "facedbaddecaf888" +
				"a5b1f8066029aea40e598b8122de02420938b3ab33f828e687b8858b5bfbdbd0315b27452144cc77" +
				"95457b9652037f5318027b5b4cd7a636",
			payload: "45000028a4ad4000400678800a01038f0a010612802306b8cb712602dd6bb03e501016d07568",
		},
		{
			name: "AES-128, one byte of padding", key: "abbccddef00112233445566778899aab", salt: "decaf888",
			esn: true, seq: 1,
			packet: "00000100" + "00000001" + "cafedebaceface74" +
				"18a6fd42f72cbf4ab2a2ea901f73d814e3e7f243d95412e1c349c1d2fbec168f" +
				"9190feebaf2cb01984e65863965d7472b79da345e0e780191f0d2f0e0f496c22" +
				"6f2127b27db35724e7845d68651f57e65f354f75ff17015769623436",
			payload: "4500004933ba00007f119106c3fb1d10c2b1d326c02831ce0035dd7b800302d5" +
				"00004e20001e8c18d75b81dc91baa0476b91b924b280389d92c963bac046ec95" +
				"9b6266c04722b14923",
		},
		{
			name: "AES-256, middle of the 64-bit numbers", key: "abbccddef00112233445566778899aababbccddef00112233445566778899aab", salt: "73616c74",
			esn: true, seq: 0x156f3126dd0db99b,
			packet: "17405e67" + "dd0db99b" + "616e640169766563" +
				"f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f" +
				"f4d3a31ce673119e451626c2415771e3b7eebca614c89b35",
			payload: "45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb71260250101f646d54",
		},
		{
			name: "AES-128, empty payload, last 32-bit number", key: "7d773d00c144c525ac619d18c84a3f47", salt: "d9664267",
			seq:    0xffffffff,
			packet: "335467ae" + "ffffffff" + "43457e9182443bc6" + "437f866b" + "cb3f699fe9b0822bac961c4504bef270",
		},
		{
			name: "AES-256, last 64-bit number", key: "6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961", salt: "7475726e",
			esn: true, seq: 0xffffffffffffffff,
			packet: "796b6963" + "ffffffff" + "333021696765746d" +
				"f97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86" +
				"4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9d0937ba2945f669368661a329fb4c053",
			payload: "45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364" +
				"65666768696a6b6c6d6e6f7071727374",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			packet := unhex(t, c.packet)
			in := newInbound(t, testSA(afterNumber(c.seq-1), func(sa *ipsec.SA) {
				sa.Key = ipsec.NewKey(append(unhex(t, c.key), unhex(t, c.salt)...))
				sa.SPI = ipsec.SPI(uint32(packet[0])<<24 | uint32(packet[1])<<16 | uint32(packet[2])<<8 | uint32(packet[3]))
				sa.ESN = c.esn
			}))
			p := openOne(in, packet)
			if p.Err != nil || p.Seq != c.seq || p.NextHeader != 1 || !bytes.Equal(p.Payload, unhex(t, c.payload)) {
				t.Errorf("err %v, seq %#x, next header %d\n got %x\nwant %s", p.Err, p.Seq, p.NextHeader, p.Payload, c.payload)
			}
			if in.Highest() != c.seq {
				t.Errorf("highest is %#x", in.Highest())
			}
		})
	}
}
