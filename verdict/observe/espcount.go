package observe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

// ciphering are the functions in which the kernel's own ESP encrypts a packet or decrypts one,
// whatever has led it there (net/ipv4/esp4.c, net/ipv6/esp6.c). Their first argument is the state. A
// packet that a NIC does the cryptography of comes by none of them.
var ciphering = []string{"esp_output_tail", "esp6_output_tail", "esp_input", "esp6_input"}

// Kinds of calls, as they are told apart by the lowest bits of what the function is called with, which is aligned to
// more: two network namespaces of one machine may have the two ends of one SA.
const (
	encrypts = iota
	decrypts
	namesNet // tells which network namespace is this one
	callKinds
)

const kindBits = 3 // of a place

func kindOf(function string) int {
	switch {
	case function == sadInfo:
		return namesNet
	case strings.HasSuffix(function, "_input"):
		return decrypts
	}
	return encrypts
}

// sadInfo is a function that the kernel calls when somebody asks how many states there are. Its first argument is the
// network namespace (net/xfrm/xfrm_state.c).
const sadInfo = "xfrm_sad_getinfo"

const (
	// watchedStates is how many states can be counted apart.
	watchedStates = 4096
	// headSize is how much is kept of a struct xfrm_state, in bytes: it has its struct xfrm_id in there.
	headSize = 512
)

// espCount counts how often functions of the kernel are called for each state: a kprobe on each
// function, with a BPF program that adds one. All of it goes with the process. A nil count has counted
// nothing.
//
// States are told apart by where they are in memory. To tell which one that is, the program keeps the
// beginning of each, in which its destination, SPI and protocol stand side by side (struct xfrm_id,
// linux/xfrm.h), wherever a kernel has them.
type espCount struct {
	counts  int // a BPF map: place of a state → calls, and its beginning
	scratch int // a BPF map: room to put one together
	fds     []int
	absent  []string // modules that were not loaded when their functions were to be probed
	modules string   // where the kernel shows those that are: /sys/module
	net     uint64   // this network namespace, as states begin with it (struct xfrm_state); 0: not known
}

// CountCPU also counts the packets of each SA that the kernel's own ESP encrypts and decrypts. It puts
// kprobes on up to four functions of the kernel until the observer is closed, and takes CAP_BPF and
// CAP_PERFMON, or root.
func (o *Observer) CountCPU() (err error) {
	o.cpu, err = newESPCount(ciphering, func() {
		if sad, ok := o.sad.(interface {
			SADInfo(context.Context) (xfrm.SADInfo, error)
		}); ok {
			sad.SADInfo(context.Background()) // the question counts, not its answer
		}
	})
	return err
}

// newESPCount counts calls of functions from now on. askSAD has the kernel call sadInfo in this network namespace.
func newESPCount(functions []string, askSAD func()) (c *espCount, err error) {
	kprobe, err := kprobeType()
	if err != nil {
		return nil, err
	}
	c = &espCount{modules: "/sys/module"}
	defer func() {
		if err != nil {
			err = fmt.Errorf("count the kernel's own ESP: %w", err)
			c.close()
		}
	}()
	programs, err := c.load()
	if err != nil {
		return nil, err
	}
	c.findNet(kprobe, programs[namesNet], askSAD)
	for _, f := range functions {
		if err := c.attach(kprobe, f, programs[kindOf(f)]); err != nil {
			return nil, fmt.Errorf("probe %s: %w", f, err)
		}
	}
	return c, nil
}

// findNet finds this network namespace, unless somebody asks in another one at the same time, again and again.
func (c *espCount) findNet(kprobe uint32, program int, askSAD func()) {
	if _, err := os.Stat("/proc/self/ns/net"); err != nil {
		return // there are none, and states do not begin with theirs
	}
	before := len(c.fds)
	if err := c.attach(kprobe, sadInfo, program); err != nil {
		return
	}
	for range 3 {
		c.reset()
		askSAD()
		var nets []uint64
		for place := range c.read() {
			nets = append(nets, place&^kindBits)
		}
		if len(nets) == 1 {
			c.net = nets[0]
			break
		}
	}
	for _, fd := range c.fds[before:] {
		unix.Close(fd)
	}
	c.fds = c.fds[:before]
	c.reset()
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

// moduleOf is the module that a function of ciphering is in; "" for others.
func moduleOf(function string) string {
	if function == sadInfo {
		return ""
	}
	if strings.HasPrefix(function, "esp6") {
		return "esp6"
	}
	return "esp4"
}

func (c *espCount) loaded(module string) bool {
	_, err := os.Stat(c.modules + "/" + module)
	return err == nil
}

// notThere: a function that is not there is not called as long as its module is not loaded. If it is, a compiler
// has given the function another name, or none.
func (c *espCount) notThere(function string) error {
	module := moduleOf(function)
	if module == "" || c.loaded(module) {
		return fmt.Errorf("%s is loaded, and has no function of that name", module)
	}
	c.absent = append(c.absent, module)
	return nil
}

// attach runs a program whenever a function is called.
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
		return c.notThere(function)
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

// espCalls are calls by where the state is in memory, and their kind.
type espCalls map[uint64]stateCalls

type stateCalls struct {
	calls uint64
	head  []byte
}

// read is nil if nothing is counted, there were too many states to count, or a module has been loaded whose
// functions are not probed.
func (c *espCount) read() espCalls {
	if c == nil || slices.ContainsFunc(c.absent, c.loaded) {
		return nil
	}
	all := espCalls{}
	var place uint64
	key := unsafe.Pointer(nil) // the first
	for {
		var next uint64
		if _, err := bpf(bpfMapNext, mapElement{fd: uint32(c.counts), key: key, value: unsafe.Pointer(&next)}); err != nil {
			break
		}
		place, key = next, unsafe.Pointer(&place)
		value := make([]byte, 8+headSize)
		if _, err := bpf(bpfMapLookup, mapElement{fd: uint32(c.counts), key: key, value: unsafe.Pointer(&value[0])}); err == nil {
			all[place] = stateCalls{binary.NativeEndian.Uint64(value), value[8:]}
		}
		if len(all) >= watchedStates {
			return nil
		}
	}
	return all
}

// reset forgets all states: one that is deleted may leave its place to another.
func (c *espCount) reset() {
	for place := range c.read() {
		bpf(bpfMapDelete, mapElement{fd: uint32(c.counts), key: unsafe.Pointer(&place)})
	}
}

func (c *espCount) close() {
	for _, fd := range c.fds {
		unix.Close(fd)
	}
}

// xfrmID is what struct xfrm_id has of a state: destination, SPI and protocol.
type xfrmID [21]byte

func xfrmIDOf(s *xfrm.State) (id xfrmID) {
	copy(id[:], s.Dst.AsSlice())
	binary.BigEndian.PutUint32(id[16:], uint32(s.SPI))
	id[20] = s.Proto
	return id
}

// callID is an SA in one direction.
type callID struct {
	xfrmID
	kind int // encrypts or decrypts
}

// of finds out by which states of a network namespace the calls were. If that is not known (0), those that two
// namespaces may have by the same name are not known either.
func (calls espCalls) of(states map[xfrmID]bool, net uint64) (counts map[callID]uint64, unknown map[callID]bool) {
	counts, unknown = make(map[callID]uint64, len(calls)), map[callID]bool{}
	of := map[callID]uint64{}
	for place, c := range calls {
		if len(c.head) < 8 {
			continue
		}
		its := binary.NativeEndian.Uint64(c.head) // possible_net_t xs_net, where there are network namespaces
		if net != 0 && its != net {
			continue
		}
		for at := 0; at+len(xfrmID{}) <= len(c.head); at += 4 {
			if id := xfrmID(c.head[at : at+len(xfrmID{})]); states[id] {
				id := callID{id, int(place & kindBits)}
				if other, seen := of[id]; seen && other != its {
					unknown[id] = true
				}
				of[id] = its
				counts[id] += c.calls
				break
			}
		}
	}
	return counts, unknown
}
