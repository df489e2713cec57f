package observe

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands and types of bpf(2), linux/bpf.h.
const (
	bpfMapCreate = 0
	bpfMapLookup = 1
	bpfMapDelete = 3
	bpfMapNext   = 4
	bpfProgLoad  = 5

	bpfHash        = 1 // BPF_MAP_TYPE_HASH
	bpfPerCPUArray = 6 // BPF_MAP_TYPE_PERCPU_ARRAY
	bpfKprobe      = 2 // BPF_PROG_TYPE_KPROBE
)

// mapCreate, mapElement and progLoad begin union bpf_attr. The kernel takes the rest for zero.
type mapCreate struct {
	kind, keySize, valueSize, entries uint32
}

type mapElement struct {
	fd, _      uint32
	key, value unsafe.Pointer
	_          uint64 // flags
}

type progLoad struct {
	kind, count   uint32
	code, license unsafe.Pointer
	_             [2]uint32 // of the verifier's log
	_             unsafe.Pointer
}

func bpf[T mapCreate | mapElement | progLoad](command uintptr, attr T) (fd int, err error) {
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

// firstArgument is where struct pt_regs has that of a function, in bytes.
var firstArgument = map[string]int16{"amd64": 112 /* di */, "arm64": 0 /* regs[0] */}

// load makes the maps and loads a program for each kind of calls.
func (c *espCount) load() (programs [callKinds]int, err error) {
	argument, known := firstArgument[runtime.GOARCH]
	if !known {
		return programs, fmt.Errorf("not on %s", runtime.GOARCH)
	}
	if c.counts, err = c.keep(bpf(bpfMapCreate, mapCreate{kind: bpfHash, keySize: 8, valueSize: 8 + headSize, entries: watchedStates})); err != nil {
		return programs, fmt.Errorf("make a BPF map: %w", err)
	}
	if c.scratch, err = c.keep(bpf(bpfMapCreate, mapCreate{kind: bpfPerCPUArray, keySize: 4, valueSize: 8 + headSize, entries: 1})); err != nil {
		return programs, fmt.Errorf("make a BPF map: %w", err)
	}
	for kind := range programs {
		if programs[kind], err = c.loadAs(dualLicense, c.addOne(argument, int32(kind))); err != nil {
			return programs, fmt.Errorf("load a BPF program: %w", err)
		}
	}
	return programs, nil
}

// dualLicense is what the program in addOne says of itself. The kernel lets only programs call
// probe_read_kernel (a GPL-only helper) that may be used under the GPL, and nothing else tells which
// state a function was called with. It is about those 36 instructions, which are our own and all that gets
// into the kernel: they may be used under the MIT license or the GPL, too, and nothing else changes hands.
const dualLicense = "Dual MIT/GPL"

func (c *espCount) loadAs(license string, program []instruction) (fd int, err error) {
	code, name := encode(program), append([]byte(license), 0)
	return c.keep(bpf(bpfProgLoad, progLoad{kind: bpfKprobe, count: uint32(len(code) / 8),
		code: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&name[0])}))
}

// keep closes a descriptor with the count.
func (c *espCount) keep(fd int, err error) (int, error) {
	if err == nil {
		c.fds = append(c.fds, fd)
	}
	return fd, err
}

// addOne is the program: it adds one to the count of the state (or network namespace) that the function was
// called with, in the calls of its kind, and begins one with what the state begins with if there is none.
//
// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
func (c *espCount) addOne(argument int16, kind int32) []instruction {
	const (
		r0, r1, r2, r3, r4, r7, r8, r9, r10 = 0, 1, 2, 3, 4, 7, 8, 9, 10

		pseudoMapFD = 1
		lookup      = 1   // BPF_FUNC_map_lookup_elem
		update      = 2   // BPF_FUNC_map_update_elem
		probeRead   = 113 // BPF_FUNC_probe_read_kernel
		noExist     = 1   // BPF_NOEXIST
	)
	return []instruction{
		{0x79, r7, r1, argument, 0},                 //  0 r7 = the state
		{0xbf, r9, r7, 0, 0},                        //  1 r9 = r7
		{0x47, r9, 0, 0, kind},                      //  2 r9 |= kind
		{0x7b, r10, r9, -8, 0},                      //  3 *(u64 *)(r10 - 8) = r9
		{0x18, r1, pseudoMapFD, 0, int32(c.counts)}, //  4 r1 = counts
		{},                      //  5
		{0xbf, r2, r10, 0, 0},   //  6 r2 = r10
		{0x07, r2, 0, 0, -8},    //  7 r2 -= 8
		{0x85, 0, 0, 0, lookup}, //  8 r0 = lookup(r1, r2)
		{0x15, r0, 0, 3, 0},     //  9 if r0 == 0 goto 13
		{0xb7, r1, 0, 0, 1},     // 10 r1 = 1
		{0xdb, r0, r1, 0, 0},    // 11 lock *(u64 *)r0 += r1
		{0x05, 0, 0, 21, 0},     // 12 goto 34
		{0x62, r10, 0, -12, 0},  // 13 *(u32 *)(r10 - 12) = 0
		{0x18, r1, pseudoMapFD, 0, int32(c.scratch)}, // 14 r1 = scratch
		{},                                          // 15
		{0xbf, r2, r10, 0, 0},                       // 16 r2 = r10
		{0x07, r2, 0, 0, -12},                       // 17 r2 -= 12
		{0x85, 0, 0, 0, lookup},                     // 18 r0 = lookup(r1, r2)
		{0x15, r0, 0, 14, 0},                        // 19 if r0 == 0 goto 34
		{0xbf, r8, r0, 0, 0},                        // 20 r8 = r0
		{0x7a, r8, 0, 0, 1},                         // 21 *(u64 *)r8 = 1
		{0xbf, r1, r8, 0, 0},                        // 22 r1 = r8
		{0x07, r1, 0, 0, 8},                         // 23 r1 += 8
		{0xb7, r2, 0, 0, headSize},                  // 24 r2 = headSize
		{0xbf, r3, r7, 0, 0},                        // 25 r3 = r7
		{0x85, 0, 0, 0, probeRead},                  // 26 probe_read_kernel(r1, r2, r3)
		{0x18, r1, pseudoMapFD, 0, int32(c.counts)}, // 27 r1 = counts
		{},                        // 28
		{0xbf, r2, r10, 0, 0},     // 29 r2 = r10
		{0x07, r2, 0, 0, -8},      // 30 r2 -= 8
		{0xbf, r3, r8, 0, 0},      // 31 r3 = r8
		{0xb7, r4, 0, 0, noExist}, // 32 r4 = only if there is none: another CPU may have been faster
		{0x85, 0, 0, 0, update},   // 33 update(r1, r2, r3, r4)
		{0xb7, r0, 0, 0, 0},       // 34 r0 = 0
		{0x95, 0, 0, 0, 0},        // 35 exit
	}
}

func encode(program []instruction) (code []byte) {
	for _, i := range program {
		code = append(code, i.code, i.src<<4|i.dst)
		code = binary.NativeEndian.AppendUint16(code, uint16(i.offset))
		code = binary.NativeEndian.AppendUint32(code, uint32(i.imm))
	}
	return code
}
