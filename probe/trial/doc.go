// Package trial finds out what a NIC really offloads, by trying: it has the kernel add throwaway SAs
// to it, reads each back, and deletes it at once. Nothing else tells: the kernel takes an SA that the
// driver does not want and encrypts in software, without a word (xfrm_dev_state_add of
// net/xfrm/xfrm_device.c).
//
//	Plan ─► Cases ─► one SA each: add, read back, delete ─► Result: the matrix, and a probe.Layer
//
// # What it leaves alone
//
// The SAs are between addresses that are reserved for documentation (RFC 5737, RFC 3849), on SPIs and
// with a reqid that no SA of the host has, with fresh random keys that nobody else knows and no
// policy: no packet can come by them. There is one at a time. They are added with NEWSA, which changes
// no SA that is there, never with UPDSA. Their keys are in no record of used keys: an SA that has no
// policy sends nothing, and a key of 20 random bytes or more that was thrown away comes to nobody
// a second time.
//
// # What becomes of them
//
// Each is deleted when it was read back, also when the context ends meanwhile. Before the first is
// added a journal of all of them is on disk, without keys; the next run deletes what is left of those
// that a killed one has recorded, provided that SPI, addresses, protocol and reqid are all the same.
// And each has a hard lifetime of [Lifetime], after which the kernel deletes it by itself. A lock keeps
// a second trial out.
package trial
