package tun

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
)

const clonePath = "/dev/net/tun"

// Device is a TUN device of our own: it disappears when it is closed or the process ends.
type Device struct {
	name   string
	index  int
	queues []*Queue
	udp    bool
}

// Create makes a new TUN device in the network namespace of the calling thread, with the
// given number of queues (at least 1; the kernel spreads flows over them). The name may
// hold one "%d", which the kernel replaces by the first free number; an existing device
// is never taken over. The device is down and has no address.
//
// Errors name the device and what to do: without CAP_NET_ADMIN the kernel answers EPERM,
// for a name in use EBUSY.
func Create(name string, queues int) (*Device, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("create TUN device %q: a name has 1 to %d bytes", name, unix.IFNAMSIZ-1)
	}
	if queues < 1 {
		return nil, fmt.Errorf("create TUN device %s: %d queues: at least one is needed", name, queues)
	}
	// Opening the clone device and looking up the index must see one namespace.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	d := &Device{name: name}
	for i := range queues {
		attach := flags
		if i == 0 {
			attach |= unix.IFF_TUN_EXCL // ours alone: never join a device that exists
		}
		q, attached, udp, err := openQueue(d.name, attach)
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("create TUN device %s, queue %d of %d: %w%s", d.name, i+1, queues, err, hint(err))
		}
		d.name, d.udp = attached, udp
		d.queues = append(d.queues, q)
	}
	index, err := interfaceIndex(d.name)
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("look up the index of TUN device %s: %w", d.name, err)
	}
	d.index = index
	return d, nil
}

// Name is the device's name as the kernel gave it.
func (d *Device) Name() string { return d.name }

// Index is the device's interface index in the namespace it was created in.
func (d *Device) Index() int { return d.index }

// Queues returns the device's queues; the slice must not be changed.
func (d *Device) Queues() []*Queue { return d.queues }

// UDPFrames reports whether the kernel takes and hands over UDP in frames of several datagrams (Linux
// 6.2 and later).
func (d *Device) UDPFrames() bool { return d.udp }

// Close removes the device, as soon as nobody reads or writes any more. Who waits in Read gets
// os.ErrClosed.
func (d *Device) Close() error {
	var errs []error
	for _, q := range d.queues {
		errs = append(errs, q.file.Close())
	}
	return errors.Join(errs...)
}

// openQueue attaches one more file to the device and says what that is called, and whether it carries
// UDP in frames.
func openQueue(name string, flags uint16) (q *Queue, attached string, udp bool, err error) {
	number, err := unix.Open(clonePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", false, &os.PathError{Op: "open", Path: clonePath, Err: err}
	}
	attached, err = attach(number, name, flags)
	if err == nil {
		udp, err = setOffload(number)
	}
	if err != nil {
		unix.Close(number)
		return nil, "", false, err
	}
	return &Queue{file: fd.New(number, attached)}, attached, udp, nil
}

func attach(fd int, name string, flags uint16) (string, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return "", err
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return "", os.NewSyscallError("TUNSETIFF", err)
	}
	return ifr.Name(), nil
}

// TUN_F_USO4 and TUN_F_USO6 (linux/if_tun.h), which golang.org/x/sys lacks.
const offloadUDP = 0x20 | 0x40

// setOffload asks for partial checksums, TCP segments and, where the kernel has them, UDP segments. A
// kernel that keeps CWR segments to itself (no TUN_F_TSO_ECN) segments those before we read them.
func setOffload(fd int) (udp bool, err error) {
	const offload = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	for _, more := range []int{unix.TUN_F_TSO_ECN | offloadUDP, unix.TUN_F_TSO_ECN, 0} {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload|more)
		if err != unix.EINVAL {
			return more&offloadUDP != 0, os.NewSyscallError("TUNSETOFFLOAD", err)
		}
	}
	return false, os.NewSyscallError("TUNSETOFFLOAD", err)
}

func interfaceIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, os.NewSyscallError("SIOCGIFINDEX", err)
	}
	return int(ifr.Uint32()), nil
}

// hint says what to do about the errors a person can do something about.
func hint(err error) string {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return ": load the module with `modprobe tun`, or give the container " + clonePath
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ": run as root or with CAP_NET_ADMIN"
	case errors.Is(err, unix.EBUSY):
		return ": the name is in use: choose another, or remove that device with `ip link delete`"
	case errors.Is(err, unix.E2BIG):
		return ": the kernel has no room for so many queues: ask for fewer"
	}
	return ""
}
