package underlay

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
)

// defaultBuffer holds some 30 ms of 1 Gb/s, with the kernel's overhead per packet.
const defaultBuffer = 4 << 20

// Config is what all sockets of a device have in common. The zero value is usable.
type Config struct {
	Mark   uint32 // SO_MARK of every packet sent; 0 sets none
	Buffer int    // bytes of socket buffer in each direction; 0 is 4 MiB
	Scope  uint32 // interface index for link-local destinations that name no zone; 0 is none
	Share  int    // sockets that share what arrives; 0 is 1

	plain bool // tests: do without UDP_SEGMENT and UDP_GRO
}

func (c *Config) share() int { return max(c.Share, 1) }

// option is one integer socket option.
type option struct {
	name             string
	level, opt, want int
}

// open opens a socket for the packet path.
func open(cfg Config, what string, family, kind, proto int, options ...option) (*fd.File, error) {
	number, err := openSocket(cfg, what, family, kind, proto, options...)
	if err != nil {
		return nil, err
	}
	return fd.New(number, what+" socket"), nil
}

// openSocket makes a non-blocking socket, marked and with large buffers, and sets the options.
func openSocket(cfg Config, what string, family, kind, proto int, options ...option) (int, error) {
	number, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return 0, fmt.Errorf("open %s socket: %w%s", what, err, hint(err))
	}
	if err := configure(number, cfg, options); err != nil {
		unix.Close(number)
		return 0, fmt.Errorf("set up %s socket: %w%s", what, err, hint(err))
	}
	return number, nil
}

func configure(number int, cfg Config, options []option) error {
	if cfg.Mark != 0 {
		if err := unix.SetsockoptInt(number, unix.SOL_SOCKET, unix.SO_MARK, int(cfg.Mark)); err != nil {
			return fmt.Errorf("SO_MARK %#x: %w", cfg.Mark, err)
		}
	}
	size := cfg.Buffer
	if size == 0 {
		size = defaultBuffer
	}
	// The FORCE options pass net.core.rmem_max; without CAP_NET_ADMIN the limit holds.
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(number, unix.SOL_SOCKET, o[0], size) == nil {
			continue
		}
		if err := unix.SetsockoptInt(number, unix.SOL_SOCKET, o[1], size); err != nil {
			return fmt.Errorf("buffers of %d bytes: %w", size, err)
		}
	}
	for _, o := range options {
		if err := set(number, o); err != nil {
			return err
		}
	}
	return nil
}

func set(number int, o option) error {
	if err := unix.SetsockoptInt(number, o.level, o.opt, o.want); err != nil {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	return nil
}

// hint says what to do about the errors a person can do something about.
func hint(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ": run as root or with CAP_NET_RAW and CAP_NET_ADMIN"
	case errors.Is(err, unix.EADDRINUSE):
		return ": another program has the port: stop it (an IKE daemon?) or choose another port"
	case errors.Is(err, unix.EAFNOSUPPORT):
		return ": the kernel was started without IPv6"
	}
	return ""
}
