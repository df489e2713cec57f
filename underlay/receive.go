package underlay

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
	"espalier/internal/inet"
)

// slotLen is the distance of two receive buffers: 64 KiB, which is the longest packet and
// the longest GRO packet, and a few cache lines, so that the beginnings of all packets do
// not fall into the same cache sets.
const slotLen = 1<<16 + 25*64

// headroom is free in front of a message: for a header, and what the caller puts before it.
const headroom = 2 * 64

// Datagram is one ESP packet as received, or whatever else was sent to the port: RFC 3948
// puts IKE messages (four zero bytes first) and one-byte keepalives there too. Slices
// point into the receiver's buffers until its next Receive, and no longer than there is the receiver;
// datagrams that arrived as one GRO packet share one Header.
//
// Payload begins at At in Buffer. What is before it may be overwritten: it is Header as it came, or
// room. But where datagrams came as one GRO packet, each Follows the one before it, which must be done
// with.
//
// Header is the outer IP header with IPv4 options or IPv6 extension headers:
//
//   - IPv4, protocol 50: the bytes as received; of a reassembled packet those of the first
//     fragment, without the fragment's flags and with the length of the whole. Into
//     record-route and timestamp options this host has entered itself (RFC 791).
//   - IPv6, and UDP: rebuilt from what the kernel tells: version, traffic class, flow
//     label, TTL, addresses, options, the hop-by-hop, destination and routing headers.
//     Length, IPv4 identification, flags (so DF too), offset and checksum are 0: the kernel
//     does not tell them. Authentication and fragment headers are left out.
//
// The byte at ProtocolAt names the protocol as received, 50 or 17. Whoever puts the inner
// packet behind Header (transport mode) sets that byte, the length, and for IPv4 the
// checksum.
type Datagram struct {
	Local, Remote netip.AddrPort // port 0 for protocol 50; link-local addresses carry the interface index as zone
	Header        []byte
	ProtocolAt    int
	Payload       []byte
	Buffer        []byte
	At            int
	Follows       bool
}

// Receiver receives on one socket, in batches. One goroutine at a time may call Receive.
type Receiver struct {
	file   *fd.File
	decode func(*Receiver, int) bool // fills current from message i; false if it is malformed
	port   uint16

	// The last batch of the kernel: messages next to count-1 are still to be handed out,
	// and of the current one what its Buffer has from At on, in datagrams of segment bytes.
	msgs        []mmsghdr
	next, count int
	current     Datagram // up to the payload
	segment     int      // 0: nothing is left of it

	iovecs  []unix.Iovec
	names   []unix.RawSockaddrInet6
	buffers []byte
	control []byte
	headers []byte
	ctlLen  int

	anc       ancillary
	zoneIndex uint32
	zone      string
	malformed atomic.Uint64
}

// newReceiver makes the receiver's buffers. controlLen and headerLen are the room per
// message for control messages and rebuilt headers. After an error f is closed.
func newReceiver(f *fd.File, decode func(*Receiver, int) bool, controlLen, headerLen int) (_ *Receiver, err error) {
	r := &Receiver{
		file:    f,
		decode:  decode,
		msgs:    make([]mmsghdr, batchLen),
		iovecs:  make([]unix.Iovec, batchLen),
		names:   make([]unix.RawSockaddrInet6, batchLen),
		control: make([]byte, batchLen*controlLen),
		headers: make([]byte, batchLen*headerLen),
		ctlLen:  controlLen,
	}
	if r.buffers, err = newBuffers(r, batchLen*slotLen); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for i := range r.msgs {
		r.iovecs[i].Base = &r.buffers[i*slotLen+headroom]
		r.iovecs[i].SetLen(1 << 16)
		m := &r.msgs[i]
		m.Iov = &r.iovecs[i]
		m.SetIovlen(1)
		m.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		if controlLen > 0 {
			m.Control = &r.control[i*controlLen]
		}
	}
	return r, nil
}

// File is for a Set that waits for the socket and others.
func (r *Receiver) File() *fd.File { return r.file }

// Receive waits for a datagram: see TryReceive.
func (r *Receiver) Receive(batch []Datagram) (int, error) {
	for {
		n, err := r.TryReceive(batch)
		if !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
		if err := r.file.Wait(unix.POLLIN); err != nil {
			return 0, err
		}
	}
}

// TryReceive fills batch with datagrams that have arrived. A batch of 64 takes all that one system
// call gives; what does not fit is kept for the next call. If there is none, it returns EAGAIN;
// after Close os.ErrClosed.
func (r *Receiver) TryReceive(batch []Datagram) (int, error) {
	if len(batch) == 0 {
		return 0, errors.New("receive: the batch has no room")
	}
	for {
		if n := r.handOut(batch); n > 0 {
			return n, nil
		}
		if err := r.refill(min(len(batch), batchLen)); err != nil {
			return 0, err
		}
	}
}

// Malformed counts what was received and thrown away: empty (but for UDP), or cut by the kernel,
// itself or the description of its header. It may be called at any time.
func (r *Receiver) Malformed() uint64 { return r.malformed.Load() }

// Close closes the socket; a Receive that waits returns os.ErrClosed.
func (r *Receiver) Close() error { return r.file.Close() }

// refill gets up to n messages from the kernel.
func (r *Receiver) refill(n int) error {
	r.next, r.count, r.segment = 0, 0, 0
	for i := range r.msgs[:n] {
		m := &r.msgs[i]
		m.Namelen = unix.SizeofSockaddrInet6
		m.SetControllen(r.ctlLen)
		m.Flags = 0
	}
	count, errno := receiveMessages(r.file, r.msgs[:n])
	switch errno {
	case 0:
		r.count = count
		return nil
	case unix.EAGAIN:
		return errno
	case fd.Closed:
		return os.ErrClosed
	}
	return receiveError{r.file.Name(), errno}
}

// handOut moves datagrams from the kernel's batch to the caller's.
func (r *Receiver) handOut(batch []Datagram) (n int) {
	for n < len(batch) {
		if r.segment > 0 {
			batch[n] = r.cut()
			n++
			continue
		}
		if r.next == r.count {
			break
		}
		i := r.next
		r.next++
		if r.msgs[i].Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || !r.decode(r, i) {
			r.segment = 0
			r.malformed.Add(1)
		}
	}
	return n
}

// cut takes the next datagram of the current message.
func (r *Receiver) cut() Datagram {
	d := r.current
	end := min(d.At+r.segment, len(d.Buffer))
	d.Payload = d.Buffer[d.At:end:end]
	r.current.At, r.current.Follows = end, true
	if end == len(d.Buffer) {
		r.segment = 0
	}
	return d
}

// buffer returns the data of message i, which begin at headroom.
func (r *Receiver) buffer(i int) []byte {
	n := headroom + min(int(r.msgs[i].length), 1<<16)
	return r.buffers[i*slotLen:][:n:n]
}

// decodePacket takes message i as a whole IPv4 packet.
func (r *Receiver) decodePacket(i int) bool {
	buffer := r.buffer(i)
	packet := buffer[headroom:]
	h, err := inet.Parse(packet)
	if err != nil || h.Version != 4 {
		return false
	}
	r.current = Datagram{
		Local:      netip.AddrPortFrom(h.Dst, 0),
		Remote:     netip.AddrPortFrom(h.Src, 0),
		Header:     packet[:h.Len:h.Len],
		ProtocolAt: h.ProtocolAt,
	}
	return r.whole(buffer[:headroom+h.Total], headroom+h.Len)
}

// decodeRaw6 takes message i as the payload of protocol 50.
func (r *Receiver) decodeRaw6(i int) bool {
	return r.describe(i, inet.ProtoESP) && r.whole(r.buffer(i), headroom)
}

// decodeUDP takes message i as one or, with GRO, several UDP payloads. An empty one is none, and
// nothing is wrong with it: some hosts keep a NAT open that way.
func (r *Receiver) decodeUDP(i int) bool {
	if !r.describe(i, inet.ProtoUDP) {
		return false
	}
	if r.whole(r.buffer(i), headroom) && r.anc.segment > 0 {
		r.segment = r.anc.segment
	}
	return true
}

// whole takes a message for one datagram, whose payload begins at at. One without a payload is none.
func (r *Receiver) whole(buffer []byte, at int) bool {
	r.current.Buffer, r.current.At, r.segment = buffer, at, len(buffer)-at
	return r.segment > 0
}

// describe sets the addresses and the header of message i from its name and control messages.
func (r *Receiver) describe(i int, proto uint8) bool {
	n := min(int(r.msgs[i].Controllen), r.ctlLen)
	if r.anc.parse(r.control[i*r.ctlLen:][:n]) != nil {
		return false
	}
	remote, ok := address(&r.names[i])
	if !ok || !r.anc.local.IsValid() || remote.Addr().Is4() != r.anc.local.Is4() {
		return false
	}
	room := len(r.headers) / len(r.msgs)
	header, at := r.anc.header(r.headers[i*room:i*room:(i+1)*room], remote.Addr(), proto)
	if proto == inet.ProtoESP {
		remote = netip.AddrPortFrom(remote.Addr(), 0)
	}
	r.current = Datagram{
		Local:      netip.AddrPortFrom(r.scoped(r.anc.local), r.port),
		Remote:     netip.AddrPortFrom(r.scoped(remote.Addr()), remote.Port()),
		Header:     header,
		ProtocolAt: at,
	}
	return true
}

// scoped gives a link-local address the interface it is local to.
func (r *Receiver) scoped(a netip.Addr) netip.Addr {
	if !a.Is6() || !a.IsLinkLocalUnicast() && !a.IsLinkLocalMulticast() {
		return a
	}
	if r.zoneIndex != r.anc.index {
		r.zoneIndex, r.zone = r.anc.index, strconv.FormatUint(uint64(r.anc.index), 10)
	}
	return a.WithZone(r.zone)
}

// address reads a socket address of either family.
func address(sa *unix.RawSockaddrInet6) (netip.AddrPort, bool) {
	b := (*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(sa))
	port := binary.BigEndian.Uint16(b[2:])
	switch sa.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), port), true
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])), port), true
	}
	return netip.AddrPort{}, false
}

// receiveError is the kernel's refusal to receive.
type receiveError struct {
	socket string
	errno  syscall.Errno
}

func (e receiveError) Error() string { return "receive on " + e.socket + ": " + e.errno.Error() }
func (e receiveError) Unwrap() error { return e.errno }
