package dataplane

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"espalier/esp"
	"espalier/esp/replay"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// receiveBatch is how many datagrams one receive takes at most. 64 are what one GRO packet
// holds.
const receiveBatch = 64

// inbound carries what one underlay socket receives into the TUN, in batches, in the order of this
// file:
//
//	read → handle → find each → for each SA: open → of each: unwrap → deliver: admit → coalesce → TUN
//
// It owns its buffers; datagrams belong to the socket until the next receive.
type inbound struct {
	d         *Device
	udp       bool
	tap       bool
	datagrams []underlay.Datagram

	flows   *flows
	found   []*association       // of each datagram
	own     []*underlay.Datagram // those of the SA at hand
	packets []esp.Packet         // their ESP packets
	batch   esp.Batch
	parcel  parcel
	arena   []byte // for a packet that must be put together elsewhere
	tun     *tun.Coalescer
}

// parcel is an inner packet on its way.
type parcel struct {
	buf    []byte // room for the virtio_net_hdr, and the packet
	header inet.Header
	outer  []byte // IP header
}

// newInbound makes an inbound for a kind of socket, whose frames go to deliver, as to
// [tun.Queue.Write].
func newInbound(d *Device, udp bool, deliver func(h tun.VirtioHeader, buf []byte, packets int)) *inbound {
	return &inbound{
		d: d, udp: udp, datagrams: make([]underlay.Datagram, receiveBatch),
		flows: &flows{d: d}, tun: tun.NewCoalescer(d.udpFrames, deliver),
	}
}

// writeTUN is where inbound packets go.
func (d *Device) writeTUN(queue *tun.Queue) func(h tun.VirtioHeader, buf []byte, packets int) {
	return func(h tun.VirtioHeader, buf []byte, packets int) {
		if err := queue.Write(h, buf); err != nil {
			d.drops.countN(InTUN, packets)
		}
	}
}

// read takes one batch of what a socket has. Packets are joined as long as there are: what was joined
// leaves when the socket has nothing left.
// It reports whether there may be more, because the socket gave as many as there was room for.
func (in *inbound) read(socket receiver) (more bool, err error) {
	n, err := socket.TryReceive(in.datagrams)
	if errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	in.handle(in.datagrams[:n])
	return n == len(in.datagrams), nil
}

// handle takes datagrams of the same SA together.
func (in *inbound) handle(datagrams []underlay.Datagram) {
	in.found = in.found[:0]
	for i := range datagrams {
		if i > 0 && in.found[i-1] != nil && sameSA(&datagrams[i-1], &datagrams[i]) {
			in.found = append(in.found, in.found[i-1])
			continue
		}
		a, reason, ok := in.find(&datagrams[i])
		if !ok && reason != reasons {
			in.d.drops.count(reason)
		}
		in.found = append(in.found, a)
	}
	for i, a := range in.found {
		if a != nil {
			in.open(a, in.take(a, datagrams[i:], in.found[i:]))
		}
	}
}

// take gathers the datagrams of one SA.
func (in *inbound) take(a *association, datagrams []underlay.Datagram, found []*association) []*underlay.Datagram {
	in.own = in.own[:0]
	for i := range datagrams {
		if found[i] == a {
			found[i] = nil
			in.own = append(in.own, &datagrams[i])
		}
	}
	return in.own
}

func sameSA(a, b *underlay.Datagram) bool {
	return len(b.Payload) >= 4 && [4]byte(a.Payload) == [4]byte(b.Payload) && a.Local.Addr() == b.Local.Addr()
}

// find finds the SA of a datagram, or why there is none. A NAT keepalive is nobody's and no
// drop, and so is IKE that somebody handles: reasons stands for that, and for what the tap leaves to
// others.
func (in *inbound) find(dg *underlay.Datagram) (*association, Reason, bool) {
	p := dg.Payload
	if in.tap {
		a := in.findTapped(dg)
		return a, reasons, a != nil
	}
	if in.udp {
		if len(p) == 1 && p[0] == natKeepalive { // RFC 3948 §2.3
			return nil, reasons, false
		}
		if len(p) >= 4 && [4]byte(p) == [4]byte{} { // non-ESP marker, RFC 3948 §2.2
			return nil, in.d.takeIKE(dg), false
		}
	}
	if len(p) < esp.HeaderLen {
		return nil, InTruncated, false
	}
	a := in.named(dg)
	switch {
	case a == nil:
		return nil, InNoSA, false
	case a.sa.Larval:
		return nil, InLarval, false
	case a.in == nil:
		return nil, InDirection, false
	case in.udp != (a.encap.Load() != nil):
		return nil, InEncapsulation, false
	}
	return a, 0, true
}

// named is the SA that an ESP packet names, nil if there is none.
func (in *inbound) named(dg *underlay.Datagram) *association {
	spi := ipsec.SPI(binary.BigEndian.Uint32(dg.Payload))
	return in.d.sad.inbound(ipsec.SAID{Dst: dg.Local.Addr().WithZone(""), SPI: spi})
}

// open opens datagrams of one SA as far as its limits allow: all at once, or one by one when a
// limit is near.
func (in *inbound) open(a *association, datagrams []*underlay.Datagram) {
	if t := a.tapped.Load(); t != nil && t.settling() {
		datagrams = in.fresh(a, datagrams)
	}
	for len(datagrams) > 0 {
		ok, look := a.mayCarry()
		if look {
			in.d.keeper.ask(&a.errand)
		}
		if !ok {
			in.d.drops.countN(InExpired, len(datagrams))
			return
		}
		size := 0
		for _, dg := range datagrams {
			size += len(dg.Payload)
		}
		n := a.ahead(len(datagrams), size)
		in.openAll(a, datagrams[:n])
		datagrams = datagrams[n:]
	}
}

// openAll checks and decrypts datagrams, and then delivers one after the other what is left of them.
func (in *inbound) openAll(a *association, datagrams []*underlay.Datagram) {
	in.packets = slices.Grow(in.packets[:0], len(datagrams))[:len(datagrams)]
	for i, dg := range datagrams {
		in.packets[i].Data = dg.Payload // Open sets all the rest
	}
	a.in.Open(&in.batch, in.packets)
	packets, bytes, highest, newest := 0, 0, uint64(0), 0
	for i := range in.packets {
		p := &in.packets[i]
		if (p.Err == nil || p.Err == esp.ErrDummy) && p.Seq > highest {
			highest, newest = p.Seq, i
		}
		switch p.Err {
		case nil:
			packets, bytes = packets+1, bytes+len(p.Payload)
			in.unwrap(a, datagrams, i, p)
		case esp.ErrDummy: // RFC 4303 §2.6: discarded without a word
			packets++
		default:
			in.d.drops.count(openFailure(p.Err))
		}
	}
	if packets == 0 {
		return
	}
	if in.udp {
		in.followPeer(a, datagrams[newest].Remote, highest)
	}
	if a.carried(packets, bytes, in.d.keeper.now.Load()) || highest >= a.progress.receivedAt.Load() {
		in.d.keeper.ask(&a.errand)
	}
}

func openFailure(err error) Reason {
	switch {
	case errors.Is(err, replay.ErrReplayed), errors.Is(err, replay.ErrZero):
		return InReplay
	case errors.Is(err, replay.ErrTooOld):
		return InWindow
	case errors.Is(err, esp.ErrTruncated):
		return InTruncated
	case errors.Is(err, esp.ErrPadding):
		return InPadding
	case errors.Is(err, esp.ErrLength):
		return InLength
	case errors.Is(err, esp.ErrNextHeader):
		return InNextHeader
	case errors.Is(err, esp.ErrWiped):
		return InNoSA
	}
	return InIntegrity
}

// unwrap delivers the packet that ESP has carried in a datagram. In tunnel mode it is there; in
// transport mode it is put together from the header and the payload.
func (in *inbound) unwrap(a *association, datagrams []*underlay.Datagram, i int, p *esp.Packet) {
	c, dg := &in.parcel, datagrams[i]
	c.outer = dg.Header
	if a.mode == ipsec.Tunnel {
		const before = esp.HeaderLen + esp.IVLen - tun.HeaderLen
		c.buf = p.Data[before:][:tun.HeaderLen+len(p.Payload)]
	} else {
		c.buf = in.place(dg, firstFree(datagrams[:i], dg), len(p.Payload))
	}
	pkt := c.buf[tun.HeaderLen:]
	if len(pkt) > tun.MaxPacket-1 {
		in.d.drops.count(InLength)
		return
	}
	if a.mode == ipsec.Transport {
		in.join(pkt, dg, p)
	}
	if err := c.header.Parse(pkt); err != nil || c.header.Total != len(pkt) {
		in.d.drops.count(InMalformed)
		return
	}
	in.deliver(a, c)
}

// firstFree is from where on nobody needs what is before a datagram in its buffer, when those done are.
func firstFree(done []*underlay.Datagram, dg *underlay.Datagram) int {
	if !dg.Follows {
		return 0
	}
	if n := len(done); n > 0 {
		if last := done[n-1]; &last.Buffer[0] == &dg.Buffer[0] && last.At+len(last.Payload) == dg.At {
			return last.At
		}
	}
	return dg.At
}

// place is where a packet of transport mode goes: so that its payload stays where it is, over the ESP
// header and what was before it; elsewhere if that is not free.
func (in *inbound) place(dg *underlay.Datagram, free, payload int) []byte {
	n := tun.HeaderLen + len(dg.Header) + payload
	if at := dg.At + esp.HeaderLen + esp.IVLen + payload - n; at >= free {
		return dg.Buffer[at:][:n:n]
	}
	if len(in.arena) < n {
		in.arena = make([]byte, n)
	}
	return in.arena[:n:n]
}

// join puts the header that a packet came with and its payload together in pkt, where the payload may
// be already.
func (in *inbound) join(pkt []byte, dg *underlay.Datagram, p *esp.Packet) {
	payload := pkt[copy(pkt, dg.Header):]
	if len(payload) > 0 && &payload[0] != &p.Payload[0] {
		copy(payload, p.Payload)
	}
	pkt[dg.ProtocolAt] = p.NextHeader
	if in.udp && pkt[0]>>4 == 4 {
		pkt[6] = dfBit // whole, and its identification is lost: see RFC 6864 §4.1
	}
	inet.SetLength(pkt)
}

// deliver has an inner packet admitted and written.
func (in *inbound) deliver(a *association, c *parcel) {
	pkt := c.buf[tun.HeaderLen:]
	if a.mode == ipsec.Tunnel && !decapsulateECN(pkt, &c.header, c.outer) {
		in.d.drops.count(InECN)
		return
	}
	if reason, ok := in.admit(a, pkt, &c.header); !ok {
		in.d.drops.count(reason)
		return
	}
	if in.udp && a.mode == ipsec.Transport {
		in.repairSum(a, pkt, &c.header)
	}
	if p := c.header.Protocol; (p == inet.ProtoICMP || p == inet.ProtoICMPv6) && in.d.answersProbe(pkt, &c.header) {
		return
	}
	in.tun.Add(c.buf, &c.header)
}

// admit reports whether an inner packet may come by this SA, or why not.
func (in *inbound) admit(a *association, pkt []byte, h *inet.Header) (Reason, bool) {
	known := in.flows.of(pkt, h)
	if known.sa == a {
		known.policy.use(in.d.keeper.now.Load())
		return 0, true
	}
	policy, reason, ok := in.decide(a, h)
	if ok && policy != nil {
		known.policy, known.sa = policy, a
	}
	return reason, ok
}

// decide is the check of an inner packet against its SA's selector and the SPD (RFC 4301
// §5.2, as Linux orders it).
func (in *inbound) decide(a *association, h *inet.Header) (*policy, Reason, bool) {
	if a.mode == ipsec.Transport && h.IsFragment() {
		return nil, InNextHeader, false // RFC 4303 §3.1.1: transport mode carries whole datagrams
	}
	var flow ipsec.Flow
	readFlow(&flow, h)
	if !a.anyTraffic && !a.sa.Selector.Match(&flow) {
		return nil, InSelector, false
	}
	if (h.IsFragment() || flow.NoPorts) && a.sa.Selector.HasPorts() {
		return nil, InFragmentSelector, false
	}
	dir := ipsec.Inbound
	if !in.d.locals.has(h.Dst) {
		dir = ipsec.Forward
	}
	policy := in.d.spd.lookup(dir, &flow, in.d.keeper.now.Load())
	switch {
	case policy == nil:
		// Linux lets decrypted transport mode traffic pass where no policy speaks.
		return nil, InNoPolicy, a.mode == ipsec.Transport
	case policy.Action == ipsec.Discard:
		return policy, InPolicyDiscard, false
	case (h.IsFragment() || flow.NoPorts) && policy.Selector.HasPorts():
		return policy, InFragmentSelector, false
	case policy.Action == ipsec.Bypass:
		// The policy asks for no SA; one that changes addresses is not what it allows.
		return policy, InPolicyMismatch, a.mode == ipsec.Transport
	}
	return policy, InPolicyMismatch, accepts(&policy.Processing[0], &a.sa)
}

// decapsulateECN carries congestion marks of the outer header into the inner one, as RFC
// 6040 figure 4 says. It refuses a packet whose inner header says that its transport does not
// understand them.
func decapsulateECN(pkt []byte, h *inet.Header, outer []byte) bool {
	const notECT, ect1, ect0, ce = 0, 1, 2, 3
	var mark byte
	if outer[0]>>4 == 4 {
		mark = outer[1] & 3
	} else {
		mark = outer[1] >> 4 & 3
	}
	inner := h.TOS & 3
	switch {
	case inner == notECT:
		return mark != ce
	case mark == ce && inner != ce, mark == ect1 && inner == ect0:
		setECN(pkt, mark)
	}
	return true
}

func setECN(pkt []byte, mark byte) {
	if pkt[0]>>4 == 4 {
		pkt[1] = pkt[1]&^3 | mark
		inet.SetIPv4Checksum(pkt)
		return
	}
	pkt[1] = pkt[1]&^0x30 | mark<<4
}
