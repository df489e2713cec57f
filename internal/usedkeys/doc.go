// Package usedkeys remembers which AES-GCM keys this host has ever installed, so that none is
// taken for sending a second time: the sender counts its nonces from 1 again, and one nonce used
// twice under one key gives away the plaintexts and the authentication key (RFC 4106 §11,
// NIST SP 800-38D §8).
//
//	keys to be installed ─Claim→ those refused; the others are on disk before it returns
//	those really installed ─Installed→ stay; Close forgets the rest
//
// The record is a file that holds no keys: each is there as an HMAC under a random salt of the
// file's own. It is locked while a claim is open, also against other processes.
package usedkeys
