package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// Kernel speaks to the kernel, in the calling thread's network namespace: also later, when
// the client has to open further sockets from other threads.
func Kernel() (*Client, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return newClient("kernel", &kernel{ns: ns})
}

// kernel is the kernel's NETLINK_XFRM in one network namespace.
type kernel struct {
	ns *os.File
}

func (k *kernel) release() error { return k.ns.Close() }

func (k *kernel) dial() (*netlink.Conn, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	config := &netlink.Config{}
	// Entering a namespace takes CAP_SYS_ADMIN, so it is done only where it is needed.
	if !k.here() {
		config.NetNS = int(k.ns.Fd())
	}
	conn, err := netlink.Dial(unix.NETLINK_XFRM, config)
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT):
		return nil, fmt.Errorf("open NETLINK_XFRM: %w: the kernel lacks CONFIG_XFRM_USER (modprobe xfrm_user): %w", err, ipsec.ErrUnsupported)
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("open NETLINK_XFRM: %w: it takes CAP_SYS_ADMIN to enter another network namespace", err)
	case err != nil:
		return nil, fmt.Errorf("open NETLINK_XFRM: %w", err)
	}
	// Kernels before 4.12 have no words to give; their errno has to do.
	conn.SetOption(netlink.ExtendedAcknowledge, true)
	conn.SetReadBuffer(answerBuffer) // best effort: see batchLimit
	return conn, nil
}

// here reports whether the calling thread is in the client's namespace.
func (k *kernel) here() bool {
	var own, now unix.Stat_t
	if unix.Fstat(int(k.ns.Fd()), &own) != nil || unix.Stat("/proc/thread-self/ns/net", &now) != nil {
		return false
	}
	return own.Dev == now.Dev && own.Ino == now.Ino
}

// eventBuffer is room for a burst of events, in bytes. What does not fit is lost, and the
// listener is told (ENOBUFS).
const eventBuffer = 1 << 20

func (k *kernel) join(_ context.Context, conn *netlink.Conn, groups []uint32) error {
	conn.SetReadBuffer(eventBuffer) // best effort: the system's limit may be lower
	for _, g := range groups {
		if err := conn.JoinGroup(g); err != nil {
			return fmt.Errorf("join XFRM group %d: %w", g, err)
		}
	}
	return nil
}
