// Package aesgcm seals and opens batches of packets with AES-GCM (NIST SP 800-38D): 96-bit
// nonces, tags of 16, 12 or 8 bytes, in place or from one buffer to another, under one key or
// several.
//
// What flows in is a batch of [Packet]; what flows out is the same batch with Text
// transformed and OK set. All memory belongs to the caller, nothing is kept after a call,
// and no call allocates, except for texts and tags that the standard library does not take
// as they are. The package knows nothing of ESP: which nonce, which additional
// data, and that no nonce is ever used twice under one key, is its caller's business
// (RFC 4106 §3, §4, §5 for ESP).
//
// [New] picks the implementation. The choice belongs to the instance, not to the process,
// so that tests and benchmarks can hold several side by side:
//
//	vaes512  VAES and VPCLMULQDQ on vectors of 512 bits: AVX-512
//	vaes256  the same on 256 bits: AVX2
//	std      the standard library's crypto/cipher, AES-NI and PCLMULQDQ on amd64,
//	         AES and PMULL instructions on arm64; slow where there are none, and then not
//	         constant in time
//
// ESPALIER_AESGCM in the environment asks for one by name. With the build tag purego, and on
// other architectures, there is only std.
//
// The first two are ours. Encryption and GHASH run through a packet together, sixteen blocks
// or more at a time, with the powers of the hash key that go with them; short packets of one
// size go side by side, each in its own lane of the vectors (kernels_amd64.s). That file is
// generated: the program in asm is what to read and to change, then run go generate. Round
// keys and powers are set up once by New (schedule_amd64.go) and overwritten by Wipe. Key
// expansion, too, uses AES instructions: no branch and no address depends on a secret.
package aesgcm
