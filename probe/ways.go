package probe

import (
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// ways are the devices by which default routes leave: those that ESP most likely takes where nobody has
// named one. Each once, IPv4's first.
func (s *survey) ways() (devices []string) {
	add := func(device string) {
		if device != "lo" && !slices.Contains(devices, device) {
			devices = append(devices, device)
		}
	}
	v4, _ := fs.ReadFile(s.root, "proc/net/route") // none is like none that may be read
	for line := range strings.Lines(string(v4)) {
		// Iface Destination Gateway Flags RefCnt Use Metric Mask …, numbers in hex
		if f := strings.Fields(line); len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" && !rejects(f[3]) {
			add(f[0])
		}
	}
	v6, _ := fs.ReadFile(s.root, "proc/net/ipv6_route")
	for line := range strings.Lines(string(v6)) {
		// destination, its length, source, its length, gateway, metric, two counters, flags, device
		if f := strings.Fields(line); len(f) > 9 && strings.Trim(f[0], "0") == "" && f[1] == "00" && !rejects(f[8]) {
			add(f[9])
		}
	}
	return devices
}

// rejects reports whether a route's flags, in hex, have RTF_REJECT (linux/route.h).
func rejects(flags string) bool {
	n, err := strconv.ParseUint(flags, 16, 32)
	return err != nil || n&0x200 != 0
}
