package dataplane

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
)

// maxPacket is the longest IP packet, in bytes.
const maxPacket = 0xffff

// outbound carries what one TUN queue hands over to the wire, in batches of frames, in the order of
// this file and the next:
//
//	read → handle → load all → classify each ┬ protect → for each SA: encapsulate → lay → seal → emit
//	                                        └ bypass → emit
//
// It owns its buffers; nothing outlives the batch but fragments waiting for their rest. One
// goroutine at a time may use it.
type outbound struct {
	d      *Device
	wire   Wire
	queue  uint16 // 1 and the number of the TUN queue, 0: none of them
	buf    []byte // of frames
	frames []tun.Frame
	answer func(h tun.VirtioHeader, buf []byte, packets int) // to the kernel; nil: it gets none

	flows     *flows
	jobs      []job
	own       []*job // those by the SA at hand
	fragments inet.Reassembler
	probing   bool // what it sends is to find out the path MTU, and heeds none

	// What encapsulate and emit work on.
	arena   []byte   // packets laid out one behind the other
	packets [][]byte // in arena
	sealed  [][]byte // the ESP parts of packets
	alike   []alike
	refused bool // some for their length, by a socket
	batch   esp.Batch
}

// job is one frame on its way. It is large, and not copied.
type job struct {
	frame     *tun.Frame
	segments  tun.Segmenter
	sa        *association // by which it is still to be sent
	headerLen int          // before ESP: see headerLen
	payload   int          // of ESP, in the first and largest of its packets
	likeness  uint32       // frames of one SA with the same have the same header; 0: nobody else

	reassembled  bool // from fragments: then it may be cut again, whatever it says
	dontFragment bool // its packets must not be cut
}

func newOutbound(d *Device, wire Wire) *outbound {
	return &outbound{d: d, wire: wire, buf: make([]byte, byteBatch+tun.BufferLen+cacheLine), flows: &flows{d: d}}
}

// Frames are read until so many are there, or bytes, and then sent together. A frame of the longest
// kind may come behind that.
const (
	frameBatch = 64
	byteBatch  = 64 << 10
)

// read sends the frames that a queue has, up to a batch of them.
func (o *outbound) read(queue *tun.Queue) error {
	o.frames = o.frames[:0]
	free := o.buf
	for len(o.frames) < frameBatch && len(o.buf)-len(free) < byteBatch {
		f, err := queue.TryRead(free)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if errors.Is(err, unix.EBADFD) {
			return errors.New("somebody removed the TUN device: the guard stays closed; start the device again")
		}
		if err != nil {
			return err
		}
		o.frames = append(o.frames, f)
		free = free[(tun.HeaderLen+len(f.Packet)+cacheLine-1)&^(cacheLine-1):]
	}
	o.handle(o.frames)
	return nil
}

// cacheLine is the distance in bytes at which nothing shares a line.
const cacheLine = 64

// handle sends frames. Those of one SA leave in their order; short ones are sealed together. It goes
// over all of them step by step, so that what one step has written is at rest when the next reads it.
func (o *outbound) handle(frames []tun.Frame) {
	o.jobs = o.jobs[:0]
	for i := range frames {
		o.load(&frames[i])
	}
	for i := 0; i < len(o.jobs); i++ { // there may come to be more
		o.classify(i)
	}
	for i := range o.jobs {
		if a := o.jobs[i].sa; a != nil {
			o.encapsulate(a, o.take(a, o.jobs[i:]))
		}
	}
}

// load makes a job of a frame.
func (o *outbound) load(f *tun.Frame) {
	n := len(o.jobs)
	if n == cap(o.jobs) {
		o.jobs = append(o.jobs, job{})
	}
	o.jobs = o.jobs[:n+1]
	j := &o.jobs[n]
	j.frame, j.sa, j.reassembled = f, nil, false
	if err := j.segments.Load(f); err != nil {
		o.d.drops.count(malformed(err))
		o.jobs = o.jobs[:n]
	}
}

// take gathers the jobs of one SA.
func (o *outbound) take(a *association, jobs []job) []*job {
	o.own = o.own[:0]
	for i := range jobs {
		if j := &jobs[i]; j.sa == a {
			j.sa = nil
			o.own = append(o.own, j)
		}
	}
	return o.own
}

// classify finds out once what becomes of a frame: all its segments are of one flow.
func (o *outbound) classify(i int) {
	j := &o.jobs[i]
	known := o.flows.of(j.frame.Packet, j.segments.Header())
	if a := known.sa; a != nil && a.blemishes.none() {
		known.policy.use(o.d.keeper.now.Load())
		o.sendBy(a, j)
		return
	}
	o.decide(j, known)
}

// decide looks a frame up in the SPD.
func (o *outbound) decide(j *job, known *decision) {
	h := j.segments.Header()
	var flow ipsec.Flow
	readFlow(&flow, h)
	policy := o.d.spd.lookup(ipsec.Outbound, &flow, o.d.keeper.now.Load())
	switch {
	case policy == nil || policy.action == ipsec.Bypass:
		o.bypass(&j.segments)
	case policy.action == ipsec.Discard:
		o.d.drops.countN(OutDiscard, j.segments.Count())
	case !h.IsFragment():
		o.protect(j, &flow, policy)
		known.policy, known.sa = policy, j.sa
	default:
		o.protectFragment(j, &flow, policy)
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
func (o *outbound) protectFragment(j *job, flow *ipsec.Flow, policy *policy) {
	if policy.Processing[0].Mode == ipsec.Tunnel {
		if policy.Selector.HasPorts() {
			o.d.drops.count(OutFragmentSelector)
			return
		}
		o.protect(j, flow, policy)
		return
	}
	given := o.fragments.Evicted
	whole, err := o.fragments.Add(j.frame.Packet, j.segments.Header(), time.Now())
	if lost := o.fragments.Evicted - given; lost > 0 {
		o.d.drops.countN(OutReassembly, int(lost))
	}
	if err != nil {
		o.d.drops.count(OutReassembly)
		return
	}
	if whole == nil {
		return
	}
	n := len(o.jobs)
	if o.load(&tun.Frame{Packet: whole}); len(o.jobs) > n {
		o.jobs[n].reassembled = true
	}
}

// protect finds the SA that all segments are sent by. If there is none, one is asked for.
func (o *outbound) protect(j *job, flow *ipsec.Flow, policy *policy) {
	h := j.segments.Header()
	a, waiting := o.d.sad.forPolicy(policy, flow, o.queue)
	if a == nil {
		if !waiting {
			o.d.keeper.want(want{policy, *flow, o.queue})
		}
		if policy.Processing[0].Optional {
			o.bypass(&j.segments)
			return
		}
		o.d.drops.countN(OutNoSA, j.segments.Count())
		return
	}
	if (h.IsFragment() || flow.NoPorts) && a.sa.Selector.HasPorts() {
		o.d.drops.count(OutFragmentSelector)
		return
	}
	o.sendBy(a, j)
}

// sendBy makes out what an SA adds to a frame. If it then is not too long for the path, it is to be sent
// by it.
func (o *outbound) sendBy(a *association, j *job) {
	h := j.segments.Header()
	j.headerLen, j.payload = headerLen(a, h), j.segments.Size(0)
	j.dontFragment = o.probing || !j.reassembled && dontFragment(h, j.payload)
	j.likeness = likeness(a.mode, h, j.dontFragment)
	if a.mode == ipsec.Transport {
		j.payload -= h.Len
	}
	size := j.headerLen + a.out.Len(j.payload)
	if j.headerLen == 0 {
		size += outside(a, h)
	}
	if size > int(a.pmtu.look.Load()) && !o.fits(a, j, size) {
		return
	}
	j.sa = a
}

// bypass sends cleartext on that only the routes brought here. It does not wait for the frames of
// the batch that are to be protected: they are of other flows.
func (o *outbound) bypass(seg *tun.Segmenter) {
	o.packets = o.packets[:0]
	arena := o.room(seg.Count() * seg.Size(0))
	for i := range seg.Count() {
		n := seg.Write(arena, i)
		o.packets = append(o.packets, arena[:n:n])
		arena = arena[n:]
	}
	h := seg.Header()
	if seg.Size(0) <= o.mtu() {
		o.emit(o.packets)
	} else {
		o.emitLong(o.packets, h.Version == 4 && !h.DontFragment, o.mtu())
	}
}

// room makes the arena large enough.
func (o *outbound) room(need int) []byte {
	if len(o.arena) < need {
		o.arena = make([]byte, need)
	}
	return o.arena
}
