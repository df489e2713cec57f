package usedkeys

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// HostScope is that of the host's own network namespace, in every boot.
const HostScope = "host"

// KernelScope is the scope of the kernel's SAs (Use.Scope): the calling thread's network namespace, by
// its number and the boot. That of the host is the same in every boot.
func KernelScope() string {
	var own, first unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return HostScope
	}
	if err := unix.Stat("/proc/1/ns/net", &first); err == nil && own.Ino == first.Ino && own.Dev == first.Dev {
		return HostScope
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return fmt.Sprintf("net:[%d] cookie %d boot %s", own.Ino, netnsCookie(), strings.TrimSpace(string(boot)))
}

// netnsCookie tells network namespaces of one boot apart, also when a number has come to be used
// again (socket(7), SO_NETNS_COOKIE); 0 where the kernel has none.
func netnsCookie() uint64 {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0
	}
	return cookie
}
