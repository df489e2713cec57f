package verify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"io"
	"sync"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/internal/wire"
	"espalier/ipsec"
	"espalier/verdict"
	"espalier/xfrm"
)

// tap goes through a capture from the wire and counts what it shows of the probes, while they are
// sent.
type tap struct {
	flow  Flow
	token token
	first uint64       // last sequence number sent before the probes
	key   *esp.Inbound // nil: not at hand

	// Of the one that reads.
	batch  esp.Batch
	seed   maphash.Seed
	nonces map[[esp.IVLen]byte]uint64 // what was sent with each IV

	mu      sync.Mutex // guards what follows
	words   verdict.TapWord
	highest uint64 // sequence number seen
}

// mostNonces bounds what is remembered of an SA with much other traffic.
const mostNonces = 1 << 17

func newTap(f Flow, t token, first uint64) *tap {
	return &tap{flow: f, token: t, first: first, key: opener(f.SA, first), seed: maphash.MakeSeed(), nonces: make(map[[esp.IVLen]byte]uint64)}
}

// word is what was seen so far, and whether that is all there is to see: as many packets as probes,
// up to the last one's sequence number, or that many probes in clear.
func (t *tap) word(probes, last uint64) (verdict.TapWord, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.words, t.words.ESP >= probes && t.highest >= last || t.words.Readable >= probes
}

// opener opens what the SA sends; nil where the engine keeps the key to itself, or the cipher is
// another.
func opener(s *xfrm.State, sent uint64) *esp.Inbound {
	if s.AEAD == nil || s.AEAD.Name != xfrm.AEADName || s.AEAD.Key.Len() == 0 {
		return nil
	}
	sa := ipsec.SA{Src: s.Src, Dst: s.Dst, SPI: s.SPI, Key: s.AEAD.Key, ICVBits: int(s.AEAD.ICVBits), ESN: s.Flags&xfrm.FlagESN != 0}
	if s.Mode == xfrm.ModeTunnel {
		sa.Mode = ipsec.Tunnel
	}
	if sa.ESN { // of which a window tells the high half
		sa.Window, sa.Counters.Received = 4096, sent
	}
	in, err := esp.NewInbound(&sa)
	if err != nil {
		return nil
	}
	return in
}

// read reads to the end of the capture. One that ends within a packet has ended.
func (t *tap) read(capture io.Reader) error {
	r, err := wire.NewPcapReader(capture)
	for err == nil {
		var packet []byte
		var whole bool
		if packet, whole, err = r.Next(); err == nil {
			t.packet(packet, whole)
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// packet counts an IP packet.
func (t *tap) packet(packet []byte, whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token.in(packet) {
		t.words.Readable++
	}
	data := t.ofSA(packet)
	if len(data) < esp.HeaderLen+esp.IVLen {
		return
	}
	// The number is new if it is less than half a cycle ahead.
	since := binary.BigEndian.Uint32(data[4:]) - uint32(t.first)
	if since == 0 || since >= 1<<31 || len(t.nonces) >= mostNonces {
		return
	}
	iv := [esp.IVLen]byte(data[esp.HeaderLen:])
	sum := maphash.Bytes(t.seed, data)
	if before, ok := t.nonces[iv]; ok {
		if before != sum { // else it was captured twice
			t.words.Reused++
		}
		return
	}
	t.nonces[iv] = sum
	t.words.ESP++
	t.highest = max(t.highest, t.first+uint64(since))
	switch {
	case !whole:
		t.words.Cut++
	case t.key != nil:
		t.open(data)
	}
}

// ofSA is the ESP packet, if it is one of the SA.
func (t *tap) ofSA(packet []byte) []byte {
	h, err := inet.Parse(packet)
	sa := t.flow.SA
	if err != nil || h.IsFragment() || h.Src != sa.Src || h.Dst != sa.Dst {
		return nil
	}
	data := packet[h.Len:h.Total]
	switch {
	case h.Protocol == inet.ProtoESP && sa.Encap == nil:
	case h.Protocol == inet.ProtoUDP && sa.Encap != nil && h.DstPort == sa.Encap.DstPort && len(data) > 8:
		data = data[8:]
	default:
		return nil
	}
	if len(data) < 4 || binary.BigEndian.Uint32(data) != uint32(sa.SPI) {
		return nil
	}
	return data
}

// open tries the SA's key. What it opens is wiped.
func (t *tap) open(data []byte) {
	packets := []esp.Packet{{Data: bytes.Clone(data)}}
	t.key.Open(&t.batch, packets)
	switch err := packets[0].Err; {
	case err == nil:
		t.words.Opened++
	case errors.Is(err, esp.ErrIntegrity) || errors.Is(err, esp.ErrTruncated):
		t.words.Broken++
	}
	clear(packets[0].Data)
}
