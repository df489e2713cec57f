package sequence

// sequences follows the sequence numbers of ESP packets (RFC 4303, section 2.2) of each SPI, which
// begin with 1 and go up by 1. The zero value has seen nothing.
type sequences map[uint32]*sequence

type sequence struct {
	next    uint32              // the lowest number after all seen
	seen    uint64              // packets
	late    uint64              // of them out of order
	again   uint64              // of them seen before
	missing map[uint32]struct{} // of the numbers below next, as many as are remembered
	lost    uint64              // of those that are not remembered
}

// rememberMissing is how many missing numbers of an SPI are waited for.
const rememberMissing = 1 << 16

func (s sequences) see(spi, number uint32) {
	q := s[spi]
	if q == nil {
		q = &sequence{next: 1, missing: make(map[uint32]struct{})}
		s[spi] = q
	}
	q.seen++
	if number >= q.next {
		for n := q.next; n < number; n++ {
			if len(q.missing) == rememberMissing {
				q.lost += uint64(number - n)
				break
			}
			q.missing[n] = struct{}{}
		}
		q.next = number + 1
		return
	}
	if _, waited := q.missing[number]; waited {
		delete(q.missing, number)
		q.late++
		return
	}
	q.again++
}

// Totals are those of all SPIs.
type Totals struct {
	SPIs                       int
	Seen, Missing, Late, Again uint64
}

func (s sequences) totals() Totals {
	t := Totals{SPIs: len(s)}
	for _, q := range s {
		t.Seen += q.seen
		t.Missing += q.lost + uint64(len(q.missing))
		t.Late += q.late
		t.Again += q.again
	}
	return t
}
