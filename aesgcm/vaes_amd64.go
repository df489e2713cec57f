//go:build !purego

package aesgcm

import (
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/sys/cpu"
)

// vaes is AES-GCM by kernels_amd64.s, with vectors of 256 or 512 bits. It holds no pointers, so that
// it takes no more memory than its schedule, and the garbage collector does not look into it.
type vaes struct {
	s     schedule
	width width
	wiped bool
}

// width is that of the vectors.
type width uint8

const (
	narrow width = iota // 256 bits
	wide                // 512
)

// kernels are those of a width.
type kernels struct {
	name       string
	powers     int // that they use of a schedule
	seal, open kernel
}

// kernel is one direction in one width.
type kernel struct {
	any     func(s *schedule, p *Packet, n int)
	short   func(s *schedule, p *Packet, groups int) // packets side by side
	group   int                                      // of so many
	longest uint                                     // of so many blocks of text at most
}

var kernelsOf = [...]kernels{
	narrow: {vaes256Name, powers256, kernel{sealVAES256, sealVAES256Short, 2, maxShort256}, kernel{openVAES256, openVAES256Short, 2, maxShort256}},
	wide:   {vaes512Name, powers512, kernel{sealVAES512, sealVAES512Short, 4, maxShort512}, kernel{openVAES512, openVAES512Short, 4, maxShort512}},
}

// maxShort256 and its like leave powers for a block of additional data and one of lengths. From 768
// bytes on there is nothing left to gain.
const (
	maxShort256 = powers256 - 2
	maxShort512 = min(powers512-2, 48)
)

func newVAES256(key []byte, tagSize int) (AEAD, error) { return newVAES(narrow, key, tagSize), nil }
func newVAES512(key []byte, tagSize int) (AEAD, error) { return newVAES(wide, key, tagSize), nil }

func newVAES(w width, key []byte, tagSize int) *vaes {
	v := &vaes{width: w}
	v.s.set(key, tagSize, kernelsOf[w].powers)
	return v
}

// vaes256Missing is what newVAES256 needs of the CPU and does not find, or "". It asks once: where
// the CPU is virtual, its host answers, which takes longer than all else that a new SA needs.
var vaes256Missing = sync.OnceValue(func() string {
	_, ecx := cpuid(7, 0)
	x := &cpu.X86
	return firstMissing([]feature{
		{"AVX2", x.HasAVX2}, {"AES", x.HasAES}, {"PCLMULQDQ", x.HasPCLMULQDQ},
		{"VAES", ecx>>9&1 != 0}, {"VPCLMULQDQ", ecx>>10&1 != 0},
	})
})

// vaes512Missing is what newVAES512 needs of the CPU and does not find, or "". The package
// cpu reports AVX-512 only if the kernel saves its registers.
func vaes512Missing() string {
	x := &cpu.X86
	return firstMissing([]feature{
		{"AVX512F", x.HasAVX512F}, {"AVX512BW", x.HasAVX512BW}, {"AVX512VL", x.HasAVX512VL},
		{"VAES", x.HasAVX512VAES}, {"VPCLMULQDQ", x.HasAVX512VPCLMULQDQ}, {"BMI2", x.HasBMI2},
	})
}

type feature struct {
	name string
	has  bool
}

func firstMissing(features []feature) string {
	for _, f := range features {
		if !f.has {
			return f.name
		}
	}
	return ""
}

func (v *vaes) Seal(batch []Packet) {
	for len(batch) > 0 {
		key, n := run(v, batch)
		if key == AEAD(v) {
			v.sealOwn(batch[:n])
		} else {
			key.Seal(batch[:n])
		}
		batch = batch[n:]
	}
}

func (v *vaes) Open(batch []Packet) {
	for len(batch) > 0 {
		key, n := run(v, batch)
		if key == AEAD(v) {
			v.openOwn(batch[:n])
		} else {
			key.Open(batch[:n])
		}
		batch = batch[n:]
	}
}

func (v *vaes) sealOwn(batch []Packet) {
	for len(batch) > 0 {
		n := v.begin(batch)
		kernelsOf[v.width].seal.run(&v.s, batch[:n])
		for i := range n {
			p := &batch[i]
			v.putTag(p.Text[len(p.Text)-int(v.s.tagSize):], p.hash)
		}
		batch = batch[n:]
		if len(batch) > 0 { // it cannot be sealed
			clear(batch[0].Text) // cleartext must not look like a sealed packet
			batch = batch[1:]
		}
	}
}

func (v *vaes) openOwn(batch []Packet) {
	for len(batch) > 0 {
		n := v.begin(batch)
		kernelsOf[v.width].open.run(&v.s, batch[:n])
		for i := range n {
			p := &batch[i]
			in := p.Text
			if p.From != nil {
				in = p.From
			}
			p.OK = v.isTag(in[len(in)-int(v.s.tagSize):], p.hash)
			p.hash = [2]uint64{} // of a forged packet it is the tag somebody is looking for
			if !p.OK {
				clear(p.Text)
			}
		}
		batch = batch[n:]
		if len(batch) > 0 {
			clear(batch[0].Text)
			batch = batch[1:]
		}
	}
}

// run has groups of short packets done side by side, and the others one after the other. There,
// too, as many as possible at once: what one packet waits for at its end overlaps with the next
// one's beginning.
func (k *kernel) run(s *schedule, batch []Packet) {
	for len(batch) > 0 {
		n, groups := 0, 0
		for k.isGroup(s, batch[n:]) {
			groups++
			n += k.group
		}
		if groups > 0 {
			k.short(s, &batch[0], groups)
			batch = batch[n:]
			continue
		}
		for n = 1; n < len(batch) && !k.isGroup(s, batch[n:]); n++ {
		}
		k.any(s, &batch[0], n)
		batch = batch[n:]
	}
}

// isGroup says whether the batch begins with packets for short.
func (k *kernel) isGroup(s *schedule, batch []Packet) bool {
	if len(batch) < k.group {
		return false
	}
	blocks := s.blocks(&batch[0])
	if blocks < 1 || blocks > k.longest {
		return false
	}
	for i := 1; i < k.group; i++ {
		if s.blocks(&batch[i]) != blocks {
			return false
		}
	}
	return true
}

// blocks of text that p has.
func (s *schedule) blocks(p *Packet) uint {
	return (uint(len(p.Text)) - uint(s.tagSize) + 15) / 16
}

// maxText is what one nonce suffices for (NIST SP 800-38D §5.2.1.1), in bytes.
const maxText = 1<<36 - 32

// begin sets hash and OK of the packets at the start of batch that the kernel can take, and
// returns their number. The next one, if any, it cannot: its OK is false.
func (v *vaes) begin(batch []Packet) int {
	for i := range batch {
		p := &batch[i]
		n := len(p.Text) - int(v.s.tagSize)
		p.OK = !v.wiped && n >= 0 && n <= maxText && (p.From == nil || len(p.From) == len(p.Text))
		if !p.OK {
			return i
		}
		switch aad := p.AAD; len(aad) {
		case 8:
			p.hash[0], p.hash[1] = binary.LittleEndian.Uint64(aad), 0
		case 12:
			p.hash[0], p.hash[1] = binary.LittleEndian.Uint64(aad), uint64(binary.LittleEndian.Uint32(aad[8:]))
		default:
			v.hashAAD(&p.hash, aad)
		}
	}
	return len(batch)
}

// hashAAD is for additional data that are not ESP's.
func (v *vaes) hashAAD(hash *[2]uint64, aad []byte) {
	*hash = [2]uint64{}
	if blocks := (len(aad) - 1) / 16; blocks > 0 {
		ghash(&v.s, hash, &aad[0], blocks)
		aad = aad[16*blocks:]
	}
	var last [16]byte
	copy(last[:], aad)
	hash[0] ^= binary.LittleEndian.Uint64(last[:8])
	hash[1] ^= binary.LittleEndian.Uint64(last[8:])
}

func (v *vaes) putTag(to []byte, tag [2]uint64) {
	binary.LittleEndian.PutUint64(to, tag[0])
	switch len(to) {
	case 16:
		binary.LittleEndian.PutUint64(to[8:], tag[1])
	case 12:
		binary.LittleEndian.PutUint32(to[8:], uint32(tag[1]))
	}
}

// isTag compares without a branch: how much of a forged tag is right must not show.
func (v *vaes) isTag(got []byte, tag [2]uint64) bool {
	diff := binary.LittleEndian.Uint64(got) ^ tag[0]
	switch len(got) {
	case 16:
		diff |= binary.LittleEndian.Uint64(got[8:]) ^ tag[1]
	case 12:
		diff |= uint64(binary.LittleEndian.Uint32(got[8:]) ^ uint32(tag[1]))
	}
	return diff == 0
}

func (v *vaes) TagSize() int { return int(v.s.tagSize) }
func (v *vaes) Name() string { return kernelsOf[v.width].name }

// Format keeps the key out of whatever prints an AEAD.
func (v *vaes) Format(to fmt.State, _ rune) { formatName(to, v.Name()) }

func (v *vaes) Wipe() {
	tagSize := v.s.tagSize
	v.s = schedule{tagSize: tagSize}
	v.wiped = true
}
