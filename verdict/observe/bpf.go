package observe

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands and types of bpf(2), linux/bpf.h.
const (
	bpfMapCreate = 0
	bpfMapLookup = 1
	bpfProgLoad  = 5

	bpfArray  = 2 // BPF_MAP_TYPE_ARRAY
	bpfKprobe = 2 // BPF_PROG_TYPE_KPROBE
)

// mapCreate, mapLookup and progLoad begin union bpf_attr. The kernel takes the rest for zero.
type mapCreate struct {
	kind, keySize, valueSize, entries uint32
}

type mapLookup struct {
	fd         uint32
	_          uint32
	key, value unsafe.Pointer
	flags      uint64
}

type progLoad struct {
	kind, count    uint32
	code, license  unsafe.Pointer
	logLevel, size uint32
	log            unsafe.Pointer
}

func bpf[T mapCreate | mapLookup | progLoad](command uintptr, attr T) (fd int, err error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&attr)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// instruction of BPF: struct bpf_insn.
type instruction struct {
	code     uint8
	dst, src uint8
	offset   int16
	imm      int32
}

// addOne loads a program that adds one to a slot of the counts, whatever called it.
func (c *espCount) addOne(slot uint32) (fd int, err error) {
	const (
		r0, r1, r2, r10 = 0, 1, 2, 10
		pseudoMapFD     = 1
		lookupElem      = 1 // BPF_FUNC_map_lookup_elem
	)
	code := encode([]instruction{
		{0x62, r10, 0, -4, int32(slot)},             // *(u32 *)(r10 - 4) = slot
		{0xbf, r2, r10, 0, 0},                       // r2 = r10
		{0x07, r2, 0, 0, -4},                        // r2 += -4
		{0x18, r1, pseudoMapFD, 0, int32(c.counts)}, // r1 = counts
		{},                          // (its upper half)
		{0x85, 0, 0, 0, lookupElem}, // r0 = lookup(r1, r2)
		{0x15, r0, 0, 2, 0},         // if r0 == 0 go on behind the next two
		{0xb7, r1, 0, 0, 1},         // r1 = 1
		{0xdb, r0, r1, 0, 0},        // lock *(u64 *)r0 += r1
		{0xb7, r0, 0, 0, 0},         // r0 = 0
		{0x95, 0, 0, 0, 0},          // exit
	})
	license := []byte("Apache-2.0\x00")
	fd, err = bpf(bpfProgLoad, progLoad{kind: bpfKprobe, count: uint32(len(code) / 8),
		code: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&license[0])})
	if err == nil {
		c.fds = append(c.fds, fd)
	}
	return fd, err
}

func encode(program []instruction) (code []byte) {
	for _, i := range program {
		code = append(code, i.code, i.src<<4|i.dst)
		code = binary.NativeEndian.AppendUint16(code, uint16(i.offset))
		code = binary.NativeEndian.AppendUint32(code, uint32(i.imm))
	}
	return code
}
