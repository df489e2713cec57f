package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Holder keeps UDP sockets open on a port, by which the kernel takes ESP in UDP (RFC 3948). What else
// arrives there is discarded and counted.
type Holder struct {
	sockets []*net.UDPConn
	strays  atomic.Uint64
}

// tellStrays is how often at most the log tells of datagrams that were not ESP.
const tellStrays = time.Minute

// nobody is the user that a holder runs as once its sockets are there.
const nobody = 65534

// OpenHolder opens the sockets in the network namespace of the calling thread. It takes CAP_NET_ADMIN.
func OpenHolder(port uint16) (*Holder, error) {
	h := &Holder{}
	for _, network := range []string{"udp4", "udp6"} {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return control(c, prepare(network == "udp6")) }}
		c, err := config.ListenPacket(context.Background(), network, fmt.Sprintf(":%d", port))
		switch {
		case network == "udp6" && errors.Is(err, unix.EAFNOSUPPORT):
			continue
		case errors.Is(err, unix.EADDRINUSE):
			err = fmt.Errorf("%w: another program has the port; if it is an IKE daemon, give the tunnel another one (encap.port)", err)
		case errors.Is(err, unix.EPERM):
			err = fmt.Errorf("%w: it takes root", err)
		}
		if err != nil {
			h.Close()
			return nil, err
		}
		h.sockets = append(h.sockets, c.(*net.UDPConn))
	}
	return h, nil
}

func control(c syscall.RawConn, do func(fd int) error) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = do(int(fd)) }); e != nil {
		return e
	}
	return err
}

// udpEncapESPinUDP is UDP_ENCAP_ESPINUDP (linux/udp.h).
const udpEncapESPinUDP = 2

// prepare makes a socket one that the kernel takes ESP from, and lets it receive and send whatever
// policies there are: they are about what is inside of ESP.
func prepare(ipv6 bool) func(fd int) error {
	return func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_ENCAP, udpEncapESPinUDP); err != nil {
			return fmt.Errorf("UDP_ENCAP: %w", err)
		}
		level, option, family := unix.IPPROTO_IP, unix.IP_XFRM_POLICY, uint16(unix.AF_INET)
		if ipv6 {
			level, option, family = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY, unix.AF_INET6
		}
		for _, direction := range []uint8{policyIn, policyOut} {
			policy := bypass(family, direction)
			if err := unix.SetsockoptString(fd, level, option, string(policy)); err != nil {
				return fmt.Errorf("a policy for the socket: %w", err)
			}
		}
		return nil
	}
}

// struct xfrm_userpolicy_info (linux/xfrm.h): as long, and where its fields are that are not 0.
const (
	policyLen    = 168
	policyFamily = 40 // selector.family
	policyDir    = 160
	policyIn     = 0 // XFRM_POLICY_IN
	policyOut    = 1 // XFRM_POLICY_OUT
)

// bypass is a policy of a socket that lets everything pass.
func bypass(family uint16, direction uint8) []byte {
	b := make([]byte, policyLen)
	*(*uint16)(unsafe.Pointer(&b[policyFamily])) = family // in host order
	b[policyDir] = direction
	return b
}

// Confine gives up all privileges of this process, for good: it is nobody, may not open any file, and
// may not be traced.
func Confine() error {
	// With cgo, as in tests under the race detector, Go cannot do this for all threads.
	_, _, no := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if no != 0 && no != unix.ENOTSUP {
		return no
	}
	return errors.Join(
		syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody), // of all threads; capabilities go with root
		unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0),
		unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{}),
	)
}

// Run discards what arrives until the context ends, and tells the log of it now and then.
func (h *Holder) Run(ctx context.Context, log io.Writer) error {
	stop := context.AfterFunc(ctx, h.Close)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	failed := make(chan error, len(h.sockets))
	for _, c := range h.sockets {
		all.Go(func() { failed <- h.discard(c) })
	}
	all.Go(func() { h.report(ctx, log) })
	var err error
	for range h.sockets {
		err = errors.Join(err, <-failed)
	}
	cancel()
	all.Wait()
	return err
}

// Strays is how many datagrams came that were not ESP.
func (h *Holder) Strays() uint64 { return h.strays.Load() }

// Close ends Run.
func (h *Holder) Close() {
	for _, c := range h.sockets {
		c.Close()
	}
}

func (h *Holder) discard(c *net.UDPConn) error {
	var one [1]byte // the rest is thrown away
	for {
		_, _, err := c.ReadFromUDPAddrPort(one[:])
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.ENOTSOCK):
			return err
		case err != nil:
			// An ICMP error of nobody's concern.
		default:
			h.strays.Add(1)
		}
	}
}

func (h *Holder) report(ctx context.Context, log io.Writer) {
	told := uint64(0)
	tell := func() {
		if n := h.strays.Load(); n > told {
			fmt.Fprintf(log, "%d datagrams were not ESP and have been discarded, %d in all\n", n-told, n)
			told = n
		}
	}
	for {
		select {
		case <-ctx.Done():
			tell()
			return
		case <-time.After(tellStrays):
			tell()
		}
	}
}
