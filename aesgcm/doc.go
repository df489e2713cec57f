// Package aesgcm seals and opens batches of packets with AES-GCM (NIST SP 800-38D) under
// one key: 96-bit nonces, tags of 16 or 12 bytes, everything in place.
//
// What flows in is a batch of [Packet]; what flows out is the same batch with Text
// transformed and OK set. All memory belongs to the caller, nothing is kept after a call,
// and no call allocates. The package knows nothing of ESP: which nonce, which additional
// data, and that no nonce is ever used twice under one key, is its caller's business
// (RFC 4106 §3, §4, §5 for ESP).
//
// [New] picks the implementation. The choice belongs to the instance, not to the process,
// so that tests and benchmarks can hold several side by side. Today there is one:
//
//	std      the standard library's crypto/cipher, AES-NI and PCLMULQDQ on amd64,
//	         AES and PMULL instructions on arm64
//
// ESPALIER_AESGCM in the environment asks for one by name.
package aesgcm
