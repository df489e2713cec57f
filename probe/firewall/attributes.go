package firewall

import (
	"encoding/binary"
	"errors"
	"iter"
)

var errCut = errors.New("a list of attributes that is cut short")

// attributeHeader is the size of struct nlattr, attributeType what of its type is no flag (linux/netlink.h).
const (
	attributeHeader = 4
	attributeType   = 1<<14 - 1
)

// next takes the first attribute off a list. There are three for each condition of a rule, and tens of thousands of
// rules: nothing is allocated.
func next(list []byte) (kind uint16, value, rest []byte, err error) {
	if len(list) < attributeHeader {
		return 0, nil, nil, errCut
	}
	n := int(binary.NativeEndian.Uint16(list))
	if n < attributeHeader || n > len(list) {
		return 0, nil, nil, errCut
	}
	kind = binary.NativeEndian.Uint16(list[2:]) & attributeType
	return kind, list[attributeHeader:n], list[min((n+3)&^3, len(list)):], nil
}

// attributes are those of a list, up to where it is cut short.
func attributes(list []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(list) > 0 {
			kind, value, rest, err := next(list)
			if err != nil || !yield(kind, value) {
				return
			}
			list = rest
		}
	}
}

// numbered are the attributes of an expression, by their numbers; none has more than these.
type numbered [24][]byte

func numberedOf(list []byte) (all numbered, err error) {
	for len(list) > 0 {
		kind, value, rest, err := next(list)
		if err != nil {
			return all, err
		}
		if int(kind) < len(all) {
			all[kind] = value
		}
		list = rest
	}
	return all, nil
}
