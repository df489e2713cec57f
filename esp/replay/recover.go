package replay

// Recover returns the sequence number whose low 32 bits stand in a packet. Without ESN
// that is low itself. With ESN it is the one candidate that lies in the window or less
// than 2^32 above its lower edge (RFC 4303 appendix A2.2); whether it is right only the
// ICV can tell, because the high half is authenticated and not sent.
func (w *Window) Recover(low uint32) uint64 {
	if !w.esn {
		return uint64(low)
	}
	high := w.highest >> 32
	top := uint32(w.highest)
	edge := top - (w.size - 1) // lowest number of the window, modulo 2^32
	if top >= w.size-1 {
		// The window lies within one cycle of the low half: what is below it has wrapped.
		if low < edge {
			high++ // after the last cycle this gives a number of the first: too old
		}
	} else if low >= edge && high > 0 {
		// The window spans two cycles, and low is in the first of them. Before the first
		// cycle there is none: such a number can only lie ahead.
		high--
	}
	return high<<32 | uint64(low)
}
