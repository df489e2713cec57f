package dataplane

import "unsafe"

// slab makes values that stand side by side in memory, each in cache lines of its own if their size
// is one of lines. Among the rest of what an SA or a policy consists of, the lines that packets need
// would be scattered over so many pages that finding these takes longer than reading them. The
// memory of a block goes when all of its values have.
type slab[T any] struct {
	rest  []T
	grown bool
}

// Blocks are, in bytes, what Go aligns: the first small, for most have few, the others large.
const (
	firstBlock = 512
	laterBlock = 64 << 10
)

// new makes a zero value. Without a slab it stands by itself.
func (s *slab[T]) new() *T {
	if s == nil {
		return new(T)
	}
	if len(s.rest) == 0 {
		size := firstBlock
		if s.grown {
			size = laterBlock
		}
		s.rest, s.grown = make([]T, size/int(unsafe.Sizeof(*new(T)))), true
	}
	t := &s.rest[0]
	s.rest = s.rest[1:]
	return t
}
