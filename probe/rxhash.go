package probe

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flowHash begins struct ethtool_rxnfc (linux/ethtool.h), as far as the kernel reads and writes it for ETHTOOL_GRXFH.
type flowHash struct {
	command uint32
	flow    uint32
	fields  uint64
	_       [240]byte // the rest, which older kernels copy as a whole
}

const (
	ethtoolGetHash = 0x29 // ETHTOOL_GRXFH
	espV4Flow      = 0x0a // ESP_V4_FLOW
)

// espHash asks ETHTOOL_GRXFH what a device spreads ESP over IPv4 by; "" if it does not tell.
func espHash(device string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	question := &flowHash{command: ethtoolGetHash, flow: espV4Flow}
	var request struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	if copy(request.name[:len(request.name)-1], device) < len(device) {
		return ""
	}
	request.data = unsafe.Pointer(question)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(question)
	if errno != 0 {
		return ""
	}
	return hashFields(question.fields)
}

// hashFields are the letters of ethtool -N for RXH_ flags.
func hashFields(fields uint64) string {
	letters := ""
	for _, f := range []struct {
		bit    uint
		letter string
	}{{1, "m"}, {2, "v"}, {3, "t"}, {4, "s"}, {5, "d"}, {6, "f"}, {7, "n"}} {
		if fields>>f.bit&1 != 0 {
			letters += f.letter
		}
	}
	if letters == "" {
		return "-"
	}
	return letters
}
