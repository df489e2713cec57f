// Package replay is the anti-replay window of one inbound SA and the recovery of 64-bit
// extended sequence numbers (RFC 4303 §3.4.3 and appendix A).
//
// Sequence numbers flow in, verdicts flow out; no memory is shared with the caller. For
// each packet the owner calls, in this order,
//
//	seq := w.Recover(low)   // the number as the sender counts it
//	err := w.Check(seq)     // refuse early, before any decryption
//	...                     // verify the ICV
//	err = w.Advance(seq)    // only now may the packet move the window
//
// The two steps around the ICV are what keeps a forged packet from moving the window.
//
// A Window is not safe for concurrent use: its owner locks.
package replay
