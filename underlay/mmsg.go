package underlay

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
)

// batchLen is the most messages that one system call takes or gives.
const batchLen = 64

// mmsghdr is struct mmsghdr (recvmmsg(2)) on 64-bit machines.
type mmsghdr struct {
	unix.Msghdr
	length uint32 // bytes received or sent
	_      uint32
}

// receiveMessages takes what is there, without waiting.
func receiveMessages(f *fd.File, msgs []mmsghdr) (int, syscall.Errno) {
	return f.Call(unix.SYS_RECVMMSG, unsafe.Pointer(unsafe.SliceData(msgs)), len(msgs), unix.MSG_DONTWAIT)
}

// sendMessages sends until one message fails. The error is that of the first message: a
// later one that fails ends the count, and is the first of the next call.
func sendMessages(f *fd.File, msgs []mmsghdr) (int, syscall.Errno) {
	return f.Call(unix.SYS_SENDMMSG, unsafe.Pointer(unsafe.SliceData(msgs)), len(msgs), unix.MSG_DONTWAIT)
}
