package dataplane

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
)

// prober asks the other end of an SA, inside of it, whether a packet of some size comes through: by an
// echo request (RFC 792, RFC 4443 §4.1) from one end to the other. The answer brings back what the
// prober needs to know, so that it remembers nothing. It is the keeper's, but for takes.
type prober struct {
	d      *Device
	out    *outbound
	start  time.Time
	id     uint16
	secret [8]byte // in all of its own requests; it never leaves but encrypted

	mu    sync.Mutex
	begun [16]fragmentKey // answers of which the first fragment came lately, in a ring
	last  int
}

// fragmentKey is what the fragments of one answer have in common.
type fragmentKey struct {
	from netip.Addr
	id   uint32
}

// What stands behind the ICMP header of a request: the secret, when it was sent, by which SA and of
// which size it was outside.
const (
	echoHeaderLen = 8
	probeSentAt   = 8
	probeSPIAt    = 16
	probeSizeAt   = 20
	probeDataLen  = 24
)

func newProber(d *Device, wire Wire) *prober {
	p := &prober{d: d, out: newOutbound(d, wire), start: time.Now()}
	p.out.probing = true
	var id [2]byte
	rand.Read(id[:])
	rand.Read(p.secret[:])
	p.id = binary.BigEndian.Uint16(id[:])
	return p
}

// send asks whether a packet of size bytes comes through. It reports false if the SA does not carry
// what goes from one of its ends to the other, so that it cannot be asked.
func (p *prober) send(a *association, size int, now time.Time) bool {
	request := p.request(a, size, now)
	if request == nil || !p.carries(a, request) {
		return false
	}
	o := p.out
	o.jobs = o.jobs[:0]
	o.load(&tun.Frame{Packet: request})
	j := &o.jobs[0]
	o.sendBy(a, j)
	if j.sa == a {
		o.encapsulate(a, o.take(a, o.jobs))
	}
	return true
}

// carries reports whether the request would go by this SA if the host sent it, from its queue. The policy does not
// count that as a use.
func (p *prober) carries(a *association, request []byte) bool {
	h, err := inet.Parse(request)
	if err != nil {
		return false
	}
	var flow ipsec.Flow
	readFlow(&flow, &h)
	policy := p.d.spd.lookupLocked(ipsec.Outbound, &flow)
	if policy == nil || policy.action != ipsec.Protect {
		return false
	}
	by, _ := p.d.sad.forPolicy(policy, &flow, a.queue)
	return by == a
}

// request is the echo request that has the size outside, nil if none has.
func (p *prober) request(a *association, size int, now time.Time) []byte {
	h := inet.Header{Version: 4, Len: inet.IPv4Len}
	if a.sa.Dst.Is6() {
		h = inet.Header{Version: 6, Len: inet.IPv6Len}
	}
	n := longestInner(a, &h, size)
	if a.mode == ipsec.Tunnel {
		n = min(n, tunMTU(int(p.d.link.mtu.Load()))) // which leaves the size, see longest
	}
	if n < h.Len+echoHeaderLen+probeDataLen {
		return nil
	}
	pkt := newICMP(make([]byte, n), a.sa.Src, a.sa.Dst)
	msg := pkt[h.Len:]
	msg[0] = echoRequest[h.Version]
	binary.BigEndian.PutUint16(msg[4:], p.id)
	data := msg[echoHeaderLen:]
	copy(data, p.secret[:])
	binary.BigEndian.PutUint64(data[probeSentAt:], uint64(now.Sub(p.start)))
	binary.BigEndian.PutUint32(data[probeSPIAt:], uint32(a.sa.SPI))
	binary.BigEndian.PutUint32(data[probeSizeAt:], uint32(size))
	sumICMP(pkt, h.Len, a.sa.Src, a.sa.Dst)
	return pkt
}

// echoRequest and echoReply are ICMP types by IP version.
var echoRequest, echoReply = [7]uint8{4: 8, 6: 128}, [7]uint8{4: 0, 6: 129}

// answersProbe reports whether a packet is for the prober: see prober.takes.
func (d *Device) answersProbe(pkt []byte, h *inet.Header) bool {
	return d.paths.prober != nil && d.paths.prober.takes(pkt, h)
}

// takes reports whether a packet that came by an SA is the answer to one of its own requests, or a
// fragment of one. It takes note of it; the host never sees it. That the first fragment came back is
// answer enough, for the request was whole.
func (p *prober) takes(pkt []byte, h *inet.Header) bool {
	if h.FragOffset != 0 {
		return p.hasBegun(h)
	}
	msg := pkt[h.Len:h.Total]
	if len(msg) < echoHeaderLen+probeDataLen || msg[0] != echoReply[h.Version] ||
		binary.BigEndian.Uint16(msg[4:]) != p.id || [8]byte(msg[echoHeaderLen:]) != p.secret {
		return false
	}
	if h.MoreFragments {
		p.begin(h)
	}
	data := msg[echoHeaderLen:]
	a := p.d.sad.inbound(ipsec.SAID{Dst: h.Src, SPI: ipsec.SPI(binary.BigEndian.Uint32(data[probeSPIAt:]))})
	if a == nil || a.out == nil || a.sa.Src != h.Dst {
		return true // the SA has gone meanwhile
	}
	rtt := time.Since(p.start) - time.Duration(binary.BigEndian.Uint64(data[probeSentAt:]))
	a.path.mu.Lock()
	goOn := a.path.probing.answered(int(binary.BigEndian.Uint32(data[probeSizeAt:])), max(rtt, 0))
	a.path.mu.Unlock()
	if goOn {
		p.d.keeper.ask(&a.path.errand)
	}
	return true
}

// begin remembers an answer whose other fragments are still to come.
func (p *prober) begin(h *inet.Header) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = (p.last + 1) % len(p.begun)
	p.begun[p.last] = fragmentKey{h.Src, h.ID}
}

func (p *prober) hasBegun(h *inet.Header) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.begun[:], fragmentKey{h.Src, h.ID})
}
