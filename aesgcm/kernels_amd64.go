//go:build !purego

package aesgcm

//go:generate env GOWORK=off go run -C asm . -out ../kernels_amd64.s

// The functions of kernels_amd64.s. None of them has a branch or an address that depends on
// keys or texts, only on their lengths.

// sealVAES256 and its like take n packets under one schedule, which are known to have room
// for the tag. Of each packet hash is, before, the last block of additional data plus the
// GHASH of those in front of it; afterwards it is the tag, whole. Nothing is compared.
//
//go:noescape
func sealVAES256(s *schedule, p *Packet, n int)

//go:noescape
func openVAES256(s *schedule, p *Packet, n int)

//go:noescape
func sealVAES512(s *schedule, p *Packet, n int)

//go:noescape
func openVAES512(s *schedule, p *Packet, n int)

// sealVAES256Short and its like take groups of packets under one schedule, 2 of them or with
// 512 bits 4. All packets of a group have the same number of blocks of text, 1 to 36 or
// with 512 bits to 53.
//
//go:noescape
func sealVAES256Short(s *schedule, p *Packet, groups int)

//go:noescape
func openVAES256Short(s *schedule, p *Packet, groups int)

//go:noescape
func sealVAES512Short(s *schedule, p *Packet, groups int)

//go:noescape
func openVAES512Short(s *schedule, p *Packet, groups int)

// powers fills in the n lowest powers from round keys, and sums below them.
//
//go:noescape
func powers(s *schedule, n int)

// ghash adds blocks of 16 bytes, one or more, to hash, and multiplies after each.
//
//go:noescape
func ghash(s *schedule, hash *[2]uint64, data *byte, blocks int)

// subWord is SubWord of FIPS 197 §5.2; the table lookup that it stands for would show in the
// cache.
func subWord(w uint32) uint32

func cpuid(leaf, sub uint32) (ebx, ecx uint32)
