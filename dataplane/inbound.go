package dataplane

import (
	"errors"

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

// inbound carries what one underlay socket receives into the TUN, in the order of this file:
//
//	receive → handle → open → deliver → admit → coalesce → TUN
//
// It owns its buffers; datagrams belong to the socket until the next receive.
type inbound struct {
	d   *Device
	udp bool

	datagrams []underlay.Datagram
	packets   []esp.Packet
	batch     esp.Batch
	frame     []byte // room for the virtio_net_hdr, and one packet
	tun       *tun.Coalescer
}

func newInbound(d *Device, udp bool) *inbound {
	return &inbound{
		d: d, udp: udp,
		datagrams: make([]underlay.Datagram, receiveBatch),
		packets:   make([]esp.Packet, 0, receiveBatch),
		frame:     make([]byte, tun.BufferLen),
		tun:       tun.NewCoalescer(d.writeTUN),
	}
}

func (d *Device) writeTUN(h tun.VirtioHeader, buf []byte, packets int) {
	if err := d.tun.Queues()[0].Write(h, buf); err != nil {
		d.drops.countN(InTUN, packets)
	}
}

func (d *Device) receiveRaw(r *underlay.Receiver) error {
	return newInbound(d, false).receive(r.Receive)
}

func (d *Device) receiveUDP(u *underlay.UDP) error {
	return newInbound(d, true).receive(u.Receive)
}

// receive takes batches until the socket is closed.
func (in *inbound) receive(next func([]underlay.Datagram) (int, error)) error {
	for {
		n, err := next(in.datagrams)
		if err != nil {
			return err
		}
		in.handle(in.datagrams[:n])
	}
}

// handle takes runs of datagrams for the same SA together. What was joined on the way leaves at
// the end: nothing waits for the next batch.
func (in *inbound) handle(datagrams []underlay.Datagram) {
	defer in.tun.Flush()
	for len(datagrams) > 0 {
		a, reason, ok := in.find(&datagrams[0])
		if !ok {
			if reason != reasons {
				in.d.drops.count(reason)
			}
			datagrams = datagrams[1:]
			continue
		}
		n := 1
		for n < len(datagrams) && sameSA(&datagrams[0], &datagrams[n]) {
			n++
		}
		in.open(a, datagrams[:n])
		datagrams = datagrams[n:]
	}
}

func sameSA(a, b *underlay.Datagram) bool {
	return len(b.Payload) >= 4 && [4]byte(a.Payload) == [4]byte(b.Payload) && a.Local.Addr() == b.Local.Addr()
}

// find finds the SA of a datagram, or why there is none. A NAT keepalive is nobody's and no
// drop: reasons stands for that.
func (in *inbound) find(dg *underlay.Datagram) (*association, Reason, bool) {
	p := dg.Payload
	if in.udp {
		if len(p) == 1 && p[0] == 0xff { // RFC 3948 §2.3
			return nil, reasons, false
		}
		if len(p) >= 4 && [4]byte(p) == [4]byte{} { // non-ESP marker, RFC 3948 §2.2
			return nil, InNotESP, false
		}
	}
	if len(p) < esp.HeaderLen {
		return nil, InTruncated, false
	}
	spi := ipsec.SPI(uint32(p[0])<<24 | uint32(p[1])<<16 | uint32(p[2])<<8 | uint32(p[3]))
	a := in.d.sad.inbound(ipsec.SAID{Dst: dg.Local.Addr().WithZone(""), SPI: spi})
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

// open opens datagrams of one SA as far as its limits allow: all at once, or one by one when a
// limit is near.
func (in *inbound) open(a *association, datagrams []underlay.Datagram) {
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
		for i := range datagrams {
			size += len(datagrams[i].Payload)
		}
		n := a.ahead(len(datagrams), size)
		in.openAll(a, datagrams[:n])
		datagrams = datagrams[n:]
	}
}

// openAll checks, decrypts and strips datagrams, and delivers what is left of them.
func (in *inbound) openAll(a *association, datagrams []underlay.Datagram) {
	in.packets = in.packets[:0]
	for i := range datagrams {
		in.packets = append(in.packets, esp.Packet{Data: datagrams[i].Payload})
	}
	a.in.Open(&in.batch, in.packets)
	packets, bytes, highest := 0, 0, uint64(0)
	for i := range in.packets {
		p := &in.packets[i]
		switch {
		case errors.Is(p.Err, esp.ErrDummy): // RFC 4303 §2.6: discarded without a word
			packets, highest = packets+1, max(highest, p.Seq)
		case p.Err != nil:
			in.d.drops.count(openFailure(p.Err))
		default:
			packets, bytes, highest = packets+1, bytes+len(p.Payload), max(highest, p.Seq)
			in.deliver(a, &datagrams[i], p)
		}
	}
	if packets == 0 {
		return
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

// deliver builds the inner packet behind the room for the TUN's header, has it admitted and
// writes it.
func (in *inbound) deliver(a *association, dg *underlay.Datagram, p *esp.Packet) {
	pkt, ok := in.unwrap(a, dg, p)
	if !ok {
		return
	}
	h, err := inet.Parse(pkt)
	if err != nil || h.Total != len(pkt) {
		in.d.drops.count(InMalformed)
		return
	}
	if a.sa.Mode == ipsec.Tunnel && !decapsulateECN(pkt, &h, dg.Header) {
		in.d.drops.count(InECN)
		return
	}
	if reason, ok := in.admit(a, &h); !ok {
		in.d.drops.count(reason)
		return
	}
	in.tun.Add(in.frame[:tun.HeaderLen+len(pkt)], &h)
}

// unwrap copies the inner packet: in tunnel mode the payload, in transport mode the payload
// behind the header it came with.
func (in *inbound) unwrap(a *association, dg *underlay.Datagram, p *esp.Packet) ([]byte, bool) {
	head := dg.Header
	if a.sa.Mode == ipsec.Tunnel {
		head = nil
	}
	size := len(head) + len(p.Payload)
	if size > tun.MaxPacket-1 {
		in.d.drops.count(InLength)
		return nil, false
	}
	pkt := in.frame[tun.HeaderLen:][:size]
	copy(pkt, head)
	copy(pkt[len(head):], p.Payload)
	if a.sa.Mode == ipsec.Transport {
		pkt[dg.ProtocolAt] = p.NextHeader
		if in.udp && pkt[0]>>4 == 4 {
			pkt[6] = dfBit // whole, and its identification is lost: see RFC 6864 §4.1
		}
		inet.SetLength(pkt)
	}
	return pkt, true
}

// admit is the check of an inner packet against its SA's selector and the SPD (RFC 4301
// §5.2, as Linux orders it).
func (in *inbound) admit(a *association, h *inet.Header) (Reason, bool) {
	if a.sa.Mode == ipsec.Transport && h.IsFragment() {
		return InNextHeader, false // RFC 4303 §3.1.1: transport mode carries whole datagrams
	}
	flow := flowOf(h)
	if !a.sa.Selector.Match(&flow) {
		return InSelector, false
	}
	if (h.IsFragment() || flow.NoPorts) && a.sa.Selector.HasPorts() {
		return InFragmentSelector, false
	}
	dir := ipsec.Inbound
	if !in.d.locals.has(h.Dst) {
		dir = ipsec.Forward
	}
	policy := in.d.spd.lookup(dir, &flow, in.d.keeper.now.Load())
	switch {
	case policy == nil:
		// Linux lets decrypted transport mode traffic pass where no policy speaks.
		return InNoPolicy, a.sa.Mode == ipsec.Transport
	case policy.Action == ipsec.Discard:
		return InPolicyDiscard, false
	case (h.IsFragment() || flow.NoPorts) && policy.Selector.HasPorts():
		return InFragmentSelector, false
	case policy.Action == ipsec.Bypass:
		// The policy asks for no SA; one that changes addresses is not what it allows.
		return InPolicyMismatch, a.sa.Mode == ipsec.Transport
	}
	return InPolicyMismatch, accepts(&policy.Processing[0], &a.sa)
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
