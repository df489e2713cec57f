package client

import (
	"errors"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Error is the answer of an engine that refuses. Its text is operation, object, the
// engine's words with the attribute they are about, and what to do about it, where that is known.
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

	// Attribute is the part of the request that the engine points at (NLMSGERR_ATTR_OFFS), such
	// as "XFRMA_OFFLOAD_DEV"; Offset its place in the netlink message, header included, in bytes.
	// "" and 0 where the engine points at nothing; Attribute alone is "" where none is there.
	Attribute string
	Offset    int
}

func (e *Error) Error() string {
	words := e.Message
	if words == "" {
		words = e.Errno.Error()
	}
	if e.Attribute != "" {
		words += " (" + e.Attribute + ")"
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
	case unix.ERANGE:
		errs = append(errs, ipsec.ErrRange)
	case unix.EINVAL:
		errs = append(errs, ipsec.ErrInvalid)
	}
	return errs
}

// fail words an error of a call.
func (q *call) fail(err error) error {
	var op *netlink.OpError
	var errno syscall.Errno
	object := ""
	if q.object != nil {
		object = q.object()
	}
	if !answered(err) || !errors.As(err, &op) || !errors.As(op.Err, &errno) {
		return &ipsec.OpError{Op: q.op, Object: object, Err: err}
	}
	e := &Error{Op: q.op, Object: object, Errno: errno, Message: op.Message, Offset: op.Offset}
	if op.Offset != 0 && q.flags&netlink.Dump != netlink.Dump { // the filters of a dump have no struct before them
		e.Attribute = xfrm.AttributeAt(q.typ, q.payload, op.Offset)
	}
	if errno == unix.EPERM && e.Message == "" {
		e.Hint = "it takes CAP_NET_ADMIN: run as root"
	}
	return e
}
