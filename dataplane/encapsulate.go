package dataplane

import (
	"espalier/ipsec"
)

// maxArena bounds what is sealed at once, in bytes, unless a single frame is longer: what was laid
// out should still be in the CPU's caches when it is sealed.
const maxArena = 64 << 10

// alike are neighbouring packets before which the same header stands.
type alike struct {
	wrapper
	from, to int // in packets and sealed
	longest  int // in bytes
}

// encapsulate sends frames by one SA, as far as its limits allow. The SA is held meanwhile, so that
// packets leave in the order of their numbers. As no other SA is held, queues cannot wait for each
// other in a circle.
func (o *outbound) encapsulate(a *association, jobs []*job) {
	a.sending.Lock()
	defer a.sending.Unlock()
	for len(jobs) > 0 {
		ok, look := a.mayCarry()
		if look {
			o.d.keeper.ask(&a.errand)
		}
		if !ok {
			for _, j := range jobs {
				o.d.drops.countN(OutExpired, j.segments.Count())
			}
			return
		}
		n, packets, bytes := together(a, jobs)
		o.send(a, jobs[:n], packets, bytes)
		jobs = jobs[n:]
	}
}

// together is how many of the jobs, at least one, are sealed at once: all that fit into the arena,
// or one by one when a limit is near. They make so many packets and take so many bytes at most.
func together(a *association, jobs []*job) (n, packets, bytes int) {
	for n < len(jobs) {
		p, b := jobs[n].room(a)
		if n > 0 && bytes+b > maxArena {
			break
		}
		n, packets, bytes = n+1, packets+p, bytes+b
	}
	if a.ahead(packets, bytes) < packets {
		n = 1
		packets, bytes = jobs[0].room(a)
	}
	return n, packets, bytes
}

// room is how many packets a job makes, and the bytes of the arena they take at most: all segments
// but the last are of one size, and none is larger than the first; and a header may be laid aside.
func (j *job) room(a *association) (packets, bytes int) {
	n := j.segments.Count()
	return n, n*(j.headerLen+a.out.Len(j.payload)) + j.segments.Header().Len
}

// send reserves sequence numbers, lays the frames out as ESP packets, seals them in place and emits
// them. The SA is held.
func (o *outbound) send(a *association, jobs []*job, packets, bytes int) {
	first, err := a.out.Reserve(packets)
	if err != nil && len(jobs) > 1 { // there may be numbers for some
		for i := range jobs {
			packets, bytes = jobs[i].room(a)
			o.send(a, jobs[i:i+1], packets, bytes)
		}
		return
	}
	if err != nil {
		o.d.drops.countN(OutSequence, packets)
		a.exhausted.Do(func() { o.d.log.Error("SA stops sending: install a new one", "err", err) })
		return
	}
	payload := o.lay(a, jobs, o.room(bytes), first)
	if err := a.out.Seal(&o.batch, o.sealed, first); err != nil {
		o.d.drops.countN(OutNoSA, packets) // the SA was deleted while we worked
		return
	}
	o.emitSealed(a)
	if a.carried(packets, payload, o.d.keeper.now.Load()) || first+uint64(packets)-1 >= a.progress.sentAt.Load() {
		o.d.keeper.ask(&a.errand)
	}
}

// lay writes every segment to the arena: outer header, room for the ESP header, payload,
// trailer, room for the ICV. It returns the bytes of payload.
func (o *outbound) lay(a *association, jobs []*job, arena []byte, seq uint64) (payload int) {
	o.packets, o.sealed, o.alike = o.packets[:0], o.sealed[:0], o.alike[:0]
	var w *alike
	var last uint32
	for _, j := range jobs {
		if w == nil || j.likeness == 0 || j.likeness != last {
			w, last = o.newAlike(a, j), j.likeness
		}
		if w.mode == ipsec.Transport && w.encap != nil {
			n := w.inner.Len
			w.original, arena = arena[:n:n], arena[n:]
		}
		inner := j.payload
		for i := range j.segments.Count() {
			if i > 0 {
				inner = j.payload + j.segments.Size(i) - j.segments.Size(0)
			}
			size := w.headerLen + a.out.Len(inner)
			pkt := arena[:size:size]
			arena = arena[size:]
			text := pkt[w.payloadAt():][:inner]
			switch {
			case w.mode == ipsec.Tunnel:
				j.segments.Write(text, i)
			case w.encap != nil:
				j.segments.WriteSplit(w.original, text, i)
			default:
				j.segments.WriteSplit(pkt, text, i)
			}
			w.write(pkt)
			a.out.Lay(pkt[w.headerLen:], inner, seq, w.nextHeader)
			seq++
			o.packets = append(o.packets, pkt)
			o.sealed = append(o.sealed, pkt[w.headerLen:])
			payload += inner
			w.longest = max(w.longest, size)
		}
		w.to = len(o.packets)
	}
	return payload
}

// newAlike begins with packets before which another header stands.
func (o *outbound) newAlike(a *association, j *job) *alike {
	n := len(o.packets)
	o.alike = append(o.alike, alike{wrapper: newWrapper(a, j.segments.Header(), j.dontFragment, &o.d.ids), from: n, to: n})
	return &o.alike[len(o.alike)-1]
}
