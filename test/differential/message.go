package differential

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// message is a netlink message in the form in which it is compared: without sequence number and
// sender, attributes by type.
type message struct {
	typ, flags uint16
	fixed      []byte
	attrs      map[uint16][]byte
}

// fixedSizes are those of the structs that requests begin with (uapi linux/xfrm.h).
var fixedSizes = map[uint16]int{
	0x10: 224, 0x1a: 224, 0x11: 24, 0x12: 24, 0x13: 168, 0x19: 168, 0x14: 64, 0x15: 64, 0x16: 232,
	0x1c: 1, 0x1d: 0, 0x23: 4, 0x24: 4, 0x25: 4, 0x27: 3, 0x28: 3,
}

const dumpFlags = 0x300

const (
	attrPolicyType  = 16
	attrSetMark     = 29
	attrSetMarkMask = 30
	attrIfID        = 31
)

// parseMessages cuts what one send carried into messages.
func parseMessages(b []byte) ([]message, error) {
	var all []message
	for len(b) >= 16 {
		n := int(binary.NativeEndian.Uint32(b))
		if n < 16 || n > len(b) {
			return nil, fmt.Errorf("a message of %d bytes in %d", n, len(b))
		}
		m, err := parseMessage(b[:n])
		if err != nil {
			return nil, err
		}
		all = append(all, m)
		b = b[min((n+3)&^3, len(b)):]
	}
	return all, nil
}

func parseMessage(b []byte) (message, error) {
	m := message{typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]), attrs: map[uint16][]byte{}}
	size, known := fixedSizes[m.typ]
	if !known {
		return m, fmt.Errorf("a message of type %#x", m.typ)
	}
	payload := b[16:]
	if m.flags&dumpFlags == dumpFlags {
		size = 0
	}
	if len(payload) < size {
		return m, fmt.Errorf("type %#x with %d bytes", m.typ, len(payload))
	}
	m.fixed = bytes.Clone(payload[:size])
	rest := payload[min((size+3)&^3, len(payload)):]
	for len(rest) >= 4 {
		n := int(binary.NativeEndian.Uint16(rest))
		if n < 4 || n > len(rest) {
			return m, fmt.Errorf("type %#x: an attribute of %d bytes in %d", m.typ, n, len(rest))
		}
		m.attrs[binary.NativeEndian.Uint16(rest[2:])] = bytes.Clone(rest[4:n]) // the last one counts
		rest = rest[min((n+3)&^3, len(rest)):]
	}
	if len(rest) != 0 {
		return m, fmt.Errorf("type %#x: %d bytes are left", m.typ, len(rest))
	}
	m.dropDefaults()
	return m, nil
}

// dropDefaults takes out attributes that say what none says.
func (m *message) dropDefaults() {
	if v, ok := m.attrs[attrIfID]; ok && zero(v) {
		delete(m.attrs, attrIfID)
	}
	if v, ok := m.attrs[attrPolicyType]; ok && zero(v) {
		delete(m.attrs, attrPolicyType)
	}
	mask, given := m.attrs[attrSetMarkMask]
	if _, marked := m.attrs[attrSetMark]; given && (!marked || bytes.Equal(mask, []byte{255, 255, 255, 255})) {
		delete(m.attrs, attrSetMarkMask)
	}
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func (m message) equal(o message) bool {
	return m.typ == o.typ && m.flags == o.flags && bytes.Equal(m.fixed, o.fixed) && maps.EqualFunc(m.attrs, o.attrs, bytes.Equal)
}

func (m message) without(attr uint16) message {
	m.attrs = maps.Clone(m.attrs)
	delete(m.attrs, attr)
	return m
}

func (m message) String() string {
	text := fmt.Sprintf("type %#x flags %#x %x", m.typ, m.flags, m.fixed)
	for _, typ := range slices.Sorted(maps.Keys(m.attrs)) {
		text += fmt.Sprintf(" %d:%x", typ, m.attrs[typ])
	}
	return text
}
