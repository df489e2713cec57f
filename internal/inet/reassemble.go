package inet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Bounds of a Reassembler. A host that sends fragments into a tunnel has few datagrams
// under way at once; 64 of them at 64 KiB keep the memory under 4 MiB.
const (
	maxDatagrams     = 64
	maxDatagram      = 0xffff
	reassemblyExpiry = 30 * time.Second // RFC 8200 §4.5 allows 60 s, RFC 791 suggests 15 s
)

var (
	ErrOverlap     = errors.New("fragments overlap")      // RFC 5722: the datagram is given up
	ErrTooLong     = errors.New("fragments exceed 65535") // "ping of death"
	ErrFragmentLen = errors.New("fragment length is not a multiple of 8")
)

// Reassembler puts fragmented datagrams together, bounded in number, size and time. The
// zero value is ready to use. It is not safe for concurrent use.
type Reassembler struct {
	datagrams map[datagramKey]*datagram
	Evicted   uint64 // datagrams given up: expired, or pushed out by newer ones
}

type datagramKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8 // IPv4 only: there the protocol is part of the key
}

type datagram struct {
	head    []byte // headers of the first fragment, as they will be
	body    []byte
	have    []span // disjoint, in order of arrival
	total   int    // length of the body, -1 until the last fragment is there
	arrived time.Time
}

type span struct{ from, to int }

// Add takes one fragment. It returns the whole datagram once it is complete, in memory of
// its own, and nil while parts are missing. An error gives the datagram up.
func (r *Reassembler) Add(pkt []byte, h *Header, now time.Time) ([]byte, error) {
	key := datagramKey{src: h.Src, dst: h.Dst, id: h.ID}
	head := h.Len
	if h.Version == 4 {
		key.proto = h.Protocol
	} else {
		head = h.FragAt
	}
	d := r.find(key, now)
	whole, err := d.add(pkt, h, head)
	if whole != nil || err != nil {
		delete(r.datagrams, key)
	}
	return whole, err
}

func (r *Reassembler) find(key datagramKey, now time.Time) *datagram {
	if d := r.datagrams[key]; d != nil && now.Sub(d.arrived) < reassemblyExpiry {
		return d
	}
	if r.datagrams == nil {
		r.datagrams = make(map[datagramKey]*datagram)
	}
	r.evict(now)
	d := &datagram{total: -1, arrived: now}
	r.datagrams[key] = d
	return d
}

// evict makes room for one more datagram: first of all the expired go, then the oldest.
func (r *Reassembler) evict(now time.Time) {
	var oldest datagramKey
	var at time.Time
	for k, d := range r.datagrams {
		if now.Sub(d.arrived) >= reassemblyExpiry {
			delete(r.datagrams, k)
			r.Evicted++
			continue
		}
		if at.IsZero() || d.arrived.Before(at) {
			oldest, at = k, d.arrived
		}
	}
	if len(r.datagrams) >= maxDatagrams {
		delete(r.datagrams, oldest)
		r.Evicted++
	}
}

func (d *datagram) add(pkt []byte, h *Header, head int) ([]byte, error) {
	bodyAt := head
	if h.Version == 6 {
		bodyAt += FragmentLen
	}
	part := pkt[bodyAt:h.Total]
	from, to := h.FragOffset, h.FragOffset+len(part)
	switch {
	case head+to > maxDatagram:
		return nil, ErrTooLong
	case h.MoreFragments && (len(part)%8 != 0 || len(part) == 0):
		return nil, ErrFragmentLen
	case d.total >= 0 && (to > d.total || !h.MoreFragments && to != d.total):
		return nil, ErrOverlap
	}
	for _, s := range d.have {
		if from < s.to && s.from < to || from == s.from && to == s.to {
			return nil, ErrOverlap
		}
		if !h.MoreFragments && s.to > to {
			return nil, ErrOverlap
		}
	}
	d.have = append(d.have, span{from, to})
	if !h.MoreFragments {
		d.total = to
	}
	if len(d.body) < to {
		d.body = append(d.body, make([]byte, to-len(d.body))...)
	}
	copy(d.body[from:], part)
	if from == 0 {
		d.head = append([]byte(nil), pkt[:head]...)
		if h.Version == 6 { // the fragment header's next header takes its place
			nextAt := precedingNext(pkt, h)
			d.head[nextAt] = pkt[h.FragAt]
		}
	}
	if d.total < 0 || d.head == nil || d.filled() < d.total {
		return nil, nil
	}
	if len(d.head)+d.total > maxDatagram {
		return nil, ErrTooLong
	}
	whole := append(d.head, d.body[:d.total]...)
	if whole[0]>>4 == 4 {
		whole[6] &^= 0x20 // no more fragments; a reassembled datagram keeps DF as it was
		binary.BigEndian.PutUint16(whole[6:], binary.BigEndian.Uint16(whole[6:])&0x4000)
	}
	SetLength(whole)
	return whole, nil
}

func (d *datagram) filled() int {
	n := 0
	for _, s := range d.have {
		n += s.to - s.from
	}
	return n
}

// precedingNext is the offset of the byte that names the fragment header.
func precedingNext(pkt []byte, h *Header) int {
	at, next := IPv6Len, 6
	for at < h.FragAt {
		next, at = at, at+8+8*int(pkt[at+1])
	}
	return next
}
