package client

import (
	"errors"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// Error is the answer of an engine that refuses. Its text is operation, object, the
// engine's words, and what to do about it where that is known.
//
// errors.Is matches Errno, and the errors of package ipsec: ErrExist (EEXIST), ErrNotExist
// (ESRCH, ENOENT), ErrUnsupported (EOPNOTSUPP, EPROTONOSUPPORT, ENOSYS), ErrInvalid
// (EINVAL).
type Error struct {
	Op      string // "add SA"
	Object  string // "0x28f39549 192.168.1.64→192.168.1.65"
	Errno   syscall.Errno
	Message string // extended acknowledgement; "" where the engine gave none
	Hint    string // what to do; "" where nothing is known
}

func (e *Error) Error() string {
	words := e.Message
	if words == "" {
		words = e.Errno.Error()
	}
	parts := []string{strings.TrimSuffix(e.Op+" "+e.Object, " "), words}
	if e.Hint != "" {
		parts = append(parts, e.Hint)
	}
	return strings.Join(parts, ": ")
}

// Unwrap gives errors.Is the errno and what it means to package ipsec.
func (e *Error) Unwrap() []error {
	errs := []error{e.Errno}
	switch e.Errno {
	case unix.EEXIST:
		errs = append(errs, ipsec.ErrExist)
	case unix.ESRCH, unix.ENOENT:
		errs = append(errs, ipsec.ErrNotExist)
	case unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.ENOSYS:
		errs = append(errs, ipsec.ErrUnsupported)
	case unix.EINVAL:
		errs = append(errs, ipsec.ErrInvalid)
	}
	return errs
}

// fail words an error of a call.
func (q *call) fail(err error) error {
	var op *netlink.OpError
	var errno syscall.Errno
	if !answered(err) || !errors.As(err, &op) || !errors.As(op.Err, &errno) {
		return &ipsec.OpError{Op: q.op, Object: q.object, Err: err}
	}
	e := &Error{Op: q.op, Object: q.object, Errno: errno, Message: op.Message}
	if errno == unix.EPERM && e.Message == "" {
		e.Hint = "it takes CAP_NET_ADMIN: run as root"
	}
	return e
}
