package underlay

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
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
func receiveMessages(fd uintptr, msgs []mmsghdr) (int, syscall.Errno) {
	return messages(unix.SYS_RECVMMSG, fd, msgs)
}

// sendMessages sends until one message fails. The error is that of the first message: a
// later one that fails ends the count, and is the first of the next call.
func sendMessages(fd uintptr, msgs []mmsghdr) (int, syscall.Errno) {
	return messages(unix.SYS_SENDMMSG, fd, msgs)
}

func messages(trap, fd uintptr, msgs []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(msgs))),
			uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}
