package dataplane

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// maxPacket is the longest IP packet, in bytes.
const maxPacket = 0xffff

// outbound carries what one TUN queue hands over to the wire, in the order of this file:
//
//	run → frame → protect → encapsulate → emit
//	         └→ bypass → emit
//
// It owns its buffers; nothing outlives the frame but fragments waiting for their rest.
type outbound struct {
	d     *Device
	queue *tun.Queue

	frame     []byte // one TUN frame with its virtio_net_hdr
	arena     []byte // the packets of one frame, laid out one behind the other
	header    []byte // transport mode: IP header of the segment being laid out
	packets   [][]byte
	sealed    [][]byte // the ESP parts of packets
	fragments inet.Reassembler
	batch     esp.Batch
	sender    *underlay.Sender
	udp       map[udpPort]socketSender
}

func newOutbound(d *Device, q *tun.Queue, s *underlay.Sender) *outbound {
	return &outbound{d: d, queue: q, sender: s, frame: make([]byte, tun.BufferLen), udp: make(map[udpPort]socketSender)}
}

// run reads frames until the queue is closed.
func (o *outbound) run() error {
	for {
		f, err := o.queue.Read(o.frame)
		if errors.Is(err, unix.EBADFD) {
			return errors.New("somebody removed the TUN device: the guard stays closed; start the device again")
		}
		if err != nil {
			return err
		}
		o.handle(&f)
	}
}

// handle looks the frame up in the SPD once: all its segments are of one flow.
func (o *outbound) handle(f *tun.Frame) {
	seg, err := f.Segmenter()
	if err != nil {
		o.d.drops.count(malformed(err))
		return
	}
	flow := flowOf(seg.Header())
	policy := o.d.spd.lookup(ipsec.Outbound, &flow, o.d.keeper.now.Load())
	switch {
	case policy == nil || policy.action == ipsec.Bypass:
		o.bypass(&seg)
	case policy.action == ipsec.Discard:
		o.d.drops.countN(OutDiscard, seg.Count())
	case !seg.Header().IsFragment():
		o.protect(&seg, &flow, policy)
	default:
		o.protectFragment(f, &seg, &flow, policy)
	}
}

func malformed(err error) Reason {
	if errors.Is(err, inet.ErrJumbogram) || errors.Is(err, tun.ErrJumbogram) {
		return OutJumbogram
	}
	return OutMalformed
}

// protectFragment deals with what the kernel fragmented before it got here. Transport mode
// never encrypts a fragment (RFC 4303 §3.1.1): the datagram is put together first. Tunnel
// mode carries fragments, unless ports decide: they are only in the first.
func (o *outbound) protectFragment(f *tun.Frame, seg *tun.Segmenter, flow *ipsec.Flow, policy *policy) {
	t := &policy.Processing[0]
	if t.Mode == ipsec.Tunnel {
		if policy.Selector.HasPorts() {
			o.d.drops.count(OutFragmentSelector)
			return
		}
		o.protect(seg, flow, policy)
		return
	}
	given := o.fragments.Evicted
	whole, err := o.fragments.Add(f.Packet, seg.Header(), time.Now())
	if lost := o.fragments.Evicted - given; lost > 0 {
		o.d.drops.countN(OutReassembly, int(lost))
	}
	if err != nil {
		o.d.drops.count(OutReassembly)
		return
	}
	if whole != nil {
		o.handle(&tun.Frame{Packet: whole})
	}
}

// protect finds the SA and sends all segments by it. If there is none, one is asked for.
func (o *outbound) protect(seg *tun.Segmenter, flow *ipsec.Flow, policy *policy) {
	a, waiting := o.d.sad.forPolicy(policy, flow)
	if a != nil {
		if (seg.Header().IsFragment() || flow.NoPorts) && a.sa.Selector.HasPorts() {
			o.d.drops.count(OutFragmentSelector)
			return
		}
		o.encapsulate(seg, a)
		return
	}
	if !waiting {
		o.d.keeper.want(want{policy, *flow})
	}
	if policy.Processing[0].Optional {
		o.bypass(seg)
		return
	}
	o.d.drops.countN(OutNoSA, seg.Count())
}

// encapsulate reserves the sequence numbers, lays the segments out as ESP packets, seals
// them in place and sends them. The SA is held meanwhile, so that packets leave in the order
// of their numbers.
func (o *outbound) encapsulate(seg *tun.Segmenter, a *association) {
	n := seg.Count()
	if len(o.header) < seg.Header().Len {
		o.header = make([]byte, seg.Header().Len)
	}
	w := newWrapper(a, seg.Header(), o.header, &o.d.ids)
	if w.headerLen+a.out.Len(w.innerSize(seg.Size(0))) > maxPacket {
		o.d.drops.countN(OutTooBig, n)
		return
	}
	a.sending.Lock()
	defer a.sending.Unlock()
	ok, look := a.mayCarry()
	if look {
		o.d.keeper.ask(&a.errand)
	}
	if !ok {
		o.d.drops.countN(OutExpired, n)
		return
	}
	first, err := a.out.Reserve(n)
	if err != nil {
		o.d.drops.countN(OutSequence, n)
		a.exhausted.Do(func() { o.d.log.Error("SA stops sending: install a new one", "err", err) })
		return
	}
	payload := o.lay(seg, a, &w, first)
	if err := a.out.Seal(&o.batch, o.sealed, first); err != nil {
		o.d.drops.countN(OutNoSA, n) // the SA was deleted while we worked
		return
	}
	if w.encap != nil {
		o.emitUDP(&w)
	} else {
		o.emit(o.packets, !w.dontFragment())
	}
	if a.carried(n, payload, o.d.keeper.now.Load()) || first+uint64(n)-1 >= a.progress.sentAt.Load() {
		o.d.keeper.ask(&a.errand)
	}
}

// lay writes every segment to the arena: outer header, room for the ESP header, payload,
// trailer, room for the ICV. It returns the bytes of payload.
func (o *outbound) lay(seg *tun.Segmenter, a *association, w *wrapper, first uint64) (payload int) {
	o.packets, o.sealed = o.packets[:0], o.sealed[:0]
	arena := o.room(seg.Count() * (w.headerLen + a.out.Len(w.innerSize(seg.Size(0)))))
	for i := range seg.Count() {
		inner := w.innerSize(seg.Size(i))
		size := w.headerLen + a.out.Len(inner)
		pkt := arena[:size:size]
		arena = arena[size:]
		text := pkt[w.payloadAt():][:inner]
		if w.mode == ipsec.Tunnel {
			seg.Write(text, i)
		} else {
			seg.WriteSplit(w.original, text, i)
		}
		w.write(pkt)
		a.out.Lay(pkt[w.headerLen:], inner, first+uint64(i), w.nextHeader)
		o.packets = append(o.packets, pkt)
		o.sealed = append(o.sealed, pkt[w.headerLen:])
		payload += inner
	}
	return payload
}

// room makes the arena large enough for the packets of a frame. All segments but the last are
// of one size and none is larger than the first, so that their number times the first will do.
func (o *outbound) room(need int) []byte {
	if len(o.arena) < need {
		o.arena = make([]byte, need)
	}
	return o.arena
}

// bypass sends cleartext on that only the routes brought here.
func (o *outbound) bypass(seg *tun.Segmenter) {
	o.packets = o.packets[:0]
	arena := o.room(seg.Count() * seg.Size(0))
	for i := range seg.Count() {
		n := seg.Write(arena, i)
		o.packets = append(o.packets, arena[:n:n])
		arena = arena[n:]
	}
	h := seg.Header()
	o.emit(o.packets, h.Version == 4 && !h.DontFragment)
}

// emit sends whole IP packets, and those that are too long in fragments if they may be.
func (o *outbound) emit(packets [][]byte, mayFragment bool) {
	mtu := int(o.d.link.mtu.Load())
	fits := packets[:0]
	for _, pkt := range packets {
		switch {
		case len(pkt) <= mtu:
			fits = append(fits, pkt)
		case mayFragment:
			o.emitFragments(pkt, mtu)
		default:
			o.d.drops.count(OutTooBig)
		}
	}
	_, err := o.sender.Send(fits)
	o.count(err, len(fits))
}

func (o *outbound) emitFragments(pkt []byte, mtu int) {
	h, err := inet.Parse(pkt)
	if err != nil {
		o.d.drops.count(OutMalformed)
		return
	}
	if h.Version == 4 && h.ID == 0 {
		binary.BigEndian.PutUint16(pkt[4:], o.d.ids.next16())
	}
	parts := inet.Fragment(nil, pkt, &h, mtu, o.d.ids.next())
	_, err = o.sender.Send(parts)
	o.count(err, len(parts))
}

// emitUDP sends the sealed packets by the socket of the SA's port, which makes the IP and UDP
// headers.
func (o *outbound) emitUDP(w *wrapper) {
	sender := o.udpSender(portOf(w.local))
	if sender == nil {
		o.d.drops.countN(OutNoSA, len(o.sealed)) // the SA was deleted while we worked
		return
	}
	m, ok := w.message(o.sealed)
	if !ok {
		o.d.drops.countN(OutExtensions, len(o.sealed))
		return
	}
	o.count(sender.Send(m), len(o.sealed))
}

// udpSender is this queue's own sender on the socket of a port.
func (o *outbound) udpSender(p udpPort) *underlay.UDPSender {
	socket := o.d.udp.get(p)
	if socket == nil {
		delete(o.udp, p)
		return nil
	}
	own := o.udp[p]
	if own.socket != socket {
		own = socketSender{socket: socket, sender: socket.Sender()}
		o.udp[p] = own
	}
	return own.sender
}

type socketSender struct {
	socket *underlay.UDP
	sender *underlay.UDPSender
}

// count turns what a socket said of n packets into drops.
func (o *outbound) count(err error, n int) {
	if err == nil {
		return
	}
	var partly *underlay.SendError
	if !errors.As(err, &partly) {
		o.d.drops.countN(sendFailure(err), n)
		return
	}
	for _, f := range partly.Failed {
		o.d.drops.count(sendFailure(f.Err))
	}
}

func sendFailure(err error) Reason {
	switch {
	case errors.Is(err, unix.EMSGSIZE):
		return OutTooBig
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EADDRNOTAVAIL):
		return OutNoRoute
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return OutFiltered
	}
	return OutSendError
}
