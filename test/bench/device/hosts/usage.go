package hosts

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// MiB is a unit of memory in bytes.
const MiB = 1 << 20

// PeakMemory is the most resident memory that the process has ever had, in bytes (VmHWM, proc(5)).
func PeakMemory(pid int) (uint64, error) { return status(pid, "VmHWM") }

// Memory is the process's resident memory in bytes (VmRSS, proc(5)).
func Memory(pid int) (uint64, error) { return status(pid, "VmRSS") }

func status(pid int, field string) (uint64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	return parseStatus(string(content), field)
}

func parseStatus(content, field string) (uint64, error) {
	for line := range strings.Lines(content) {
		name, value, _ := strings.Cut(line, ":")
		if name != field {
			continue
		}
		kib, unit, _ := strings.Cut(strings.TrimSpace(value), " ")
		n, err := strconv.ParseUint(kib, 10, 54)
		if err != nil || unit != "kB" {
			return 0, fmt.Errorf("%s: %q is no size", field, value)
		}
		return n << 10, nil
	}
	return 0, fmt.Errorf("no %s in a process's status", field)
}

// Tick is the unit in which the kernel accounts CPU time to user space (USER_HZ, times(2)).
const Tick = 10 * time.Millisecond

// Ticks is the CPU time of all the process's threads so far, user and system (proc(5), stat).
func Ticks(pid int) (int, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseTicks(string(content), 14)
}

// ChildTicks is that of its children which have ended, and of theirs.
func ChildTicks(pid int) (int, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseTicks(string(content), 16)
}

// parseTicks adds the field of user time, numbered from 1, and the next, which is system time.
func parseTicks(stat string, field int) (int, error) {
	// The program's name, in brackets, may hold anything.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	utime, stime := field-3, field-2 // the third comes after the name
	if len(fields) <= stime {
		return 0, fmt.Errorf("%q is no process's stat", stat)
	}
	u, err := strconv.Atoi(fields[utime])
	if err != nil {
		return 0, err
	}
	s, err := strconv.Atoi(fields[stime])
	return u + s, err
}
