package observe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/verdict"
)

// The kernel's own ESP encrypts a packet in one of the first two functions and decrypts it in one of
// the others, whatever has led it there (net/ipv4/esp4.c, net/ipv6/esp6.c). A packet that a NIC does
// the cryptography of comes by none of them.
var (
	encrypting = []string{"esp_output_tail", "esp6_output_tail"}
	decrypting = []string{"esp_input", "esp6_input"}
)

// espCount counts calls of functions of the kernel: a kprobe on each, with a BPF program that adds one.
// All of it goes with the process. A nil count reads as zero.
type espCount struct {
	counts int   // a BPF array: encrypted, decrypted
	fds    []int // all descriptors
}

// CountCPU also counts the packets that the kernel's own ESP encrypts and decrypts, in all of the
// machine. It puts kprobes on up to four functions of the kernel until the observer is closed, and
// takes CAP_BPF and CAP_PERFMON, or root.
func (o *Observer) CountCPU() (err error) {
	o.cpu, err = newESPCount(encrypting, decrypting)
	return err
}

func newESPCount(encrypting, decrypting []string) (c *espCount, err error) {
	kprobe, err := kprobeType()
	if err != nil {
		return nil, err
	}
	c = new(espCount)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.counts, err = bpf(bpfMapCreate, mapCreate{kind: bpfArray, keySize: 4, valueSize: 8, entries: 2}); err != nil {
		return nil, fmt.Errorf("count the kernel's own ESP: make a BPF map: %w", err)
	}
	c.fds = append(c.fds, c.counts)
	for slot, functions := range [][]string{encrypting, decrypting} {
		program, err := c.addOne(uint32(slot))
		if err != nil {
			return nil, fmt.Errorf("count the kernel's own ESP: load a BPF program: %w", err)
		}
		for _, f := range functions {
			if err := c.attach(kprobe, f, program); err != nil {
				return nil, fmt.Errorf("count the kernel's own ESP: probe %s: %w", f, err)
			}
		}
	}
	return c, nil
}

func kprobeType() (uint32, error) {
	const file = "/sys/bus/event_source/devices/kprobe/type"
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errors.New("count the kernel's own ESP: this kernel has no kprobes (CONFIG_KPROBE_EVENTS)")
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return uint32(n), nil
}

// attach runs a program whenever a function is called. A function that is not there is not called:
// its module is not loaded.
func (c *espCount) attach(kprobe uint32, function string, program int) error {
	name, err := unix.BytePtrFromString(function)
	if err != nil {
		return err
	}
	attr := unix.PerfEventAttr{Type: kprobe, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Ext1: uint64(uintptr(unsafe.Pointer(name)))}
	// A program is run on every CPU, whichever the event is opened for.
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	runtime.KeepAlive(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	c.fds = append(c.fds, fd)
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, program); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0)
}

func (c *espCount) read() (n verdict.CPU) {
	if c != nil {
		n.Encrypted, n.Decrypted = c.slot(0), c.slot(1)
	}
	return n
}

func (c *espCount) slot(slot uint32) (n uint64) {
	bpf(bpfMapLookup, mapLookup{fd: uint32(c.counts), key: unsafe.Pointer(&slot), value: unsafe.Pointer(&n)})
	return n
}

func (c *espCount) close() {
	for _, fd := range c.fds {
		unix.Close(fd)
	}
}
