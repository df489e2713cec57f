package xfrm

import "golang.org/x/sys/unix"

// payload is that of a message in the making: a fixed struct and the attributes behind it. It
// may hold keys, and then is the only place that does.
type payload []byte

// payloadRoom is what most messages have of attributes, in bytes.
const payloadRoom = 160

// newPayload begins with a fixed struct of so many bytes, all zero.
func newPayload(fixed int) payload { return room(fixed)[:fixed] }

// room is for a payload with such a struct.
func room(fixed int) payload { return make(payload, 0, fixed+payloadRoom) }

// fixed appends the fixed struct of n bytes and returns it, all zero.
func (p *payload) fixed(n int) []byte {
	at := len(*p)
	p.extend(n)
	return (*p)[at:]
}

// undo takes off all behind the first n bytes, and wipes it.
func (p *payload) undo(n int) []byte {
	clear((*p)[n:])
	return (*p)[:n]
}

// attr appends an attribute of n bytes and returns them, all zero, to be filled in. No
// attribute there is comes near the 65,531 bytes that one can have.
func (p *payload) attr(typ uint16, n int) []byte {
	at := len(*p)
	p.extend(unix.SizeofNlAttr + (n+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1))
	header := (*p)[at:]
	host.PutUint16(header[0:], uint16(unix.SizeofNlAttr+n))
	host.PutUint16(header[2:], typ)
	return header[unix.SizeofNlAttr:][:n:n]
}

// extend appends n zero bytes, and leaves nothing behind where it moves to a larger array.
func (p *payload) extend(n int) {
	size := len(*p) + n
	if size <= cap(*p) {
		*p = (*p)[:size]
		clear((*p)[size-n:])
		return
	}
	larger := make(payload, size, 2*size)
	copy(larger, *p)
	clear(*p)
	*p = larger
}

func (p *payload) bytes(typ uint16, b []byte) { copy(p.attr(typ, len(b)), b) }

func (p *payload) uint8(typ uint16, v uint8) { p.attr(typ, 1)[0] = v }

func (p *payload) uint16(typ uint16, v uint16) { host.PutUint16(p.attr(typ, 2), v) }

func (p *payload) uint32(typ uint16, v uint32) { host.PutUint32(p.attr(typ, 4), v) }

func (p *payload) uint64(typ uint16, v uint64) { host.PutUint64(p.attr(typ, 8), v) }

// uint32s are numbers side by side.
func (p *payload) uint32s(typ uint16, v ...uint32) {
	b := p.attr(typ, 4*len(v))
	for i, n := range v {
		host.PutUint32(b[4*i:], n)
	}
}

// nonzero leaves out a number that is 0.
func (p *payload) nonzero(typ uint16, v uint32) {
	if v != 0 {
		p.uint32(typ, v)
	}
}

// optional leaves out a number that is not there.
func (p *payload) optional(typ uint16, v *uint32) {
	if v != nil {
		p.uint32(typ, *v)
	}
}
