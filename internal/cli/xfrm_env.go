package cli

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

// env is for parsers, of which there may be several at work.
func (r *xfrmRun) env() xfrm.Env {
	return xfrm.Env{
		Interface: func(name string) (int, error) {
			r.asking.Lock()
			defer r.asking.Unlock()
			return r.names.index(name)
		},
		KeyFile: func(path string) ([]byte, error) {
			r.asking.Lock()
			defer r.asking.Unlock()
			return r.keyFile(path)
		},
		Family: r.family,
	}
}

// interfaceNames remembers the interfaces looked up, in both directions.
type interfaceNames struct {
	byName  map[string]int
	byIndex map[int]string
}

func (n *interfaceNames) remember(name string, index int) {
	if n.byName == nil {
		n.byName, n.byIndex = map[string]int{}, map[int]string{}
	}
	n.byName[name], n.byIndex[index] = index, name
}

func (n *interfaceNames) index(name string) (int, error) {
	if index, ok := n.byName[name]; ok {
		return index, nil
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		if index, ok := unnamed(name); ok {
			return index, nil
		}
		return 0, errors.New("no such device")
	}
	n.remember(name, i.Index)
	return i.Index, nil
}

// unnamed takes if7, as an interface that is gone is printed, for the index 7, as ip does.
func unnamed(name string) (index int, ok bool) {
	digits, ok := strings.CutPrefix(name, "if")
	if !ok || digits == "" || digits[0] < '1' || digits[0] > '9' {
		return 0, false
	}
	index, err := strconv.Atoi(digits)
	return index, err == nil && index <= math.MaxInt32
}

// name is "" for an interface that is gone.
func (n *interfaceNames) name(index int) string {
	if name, ok := n.byIndex[index]; ok {
		return name
	}
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return ""
	}
	n.remember(i.Name, index)
	return i.Name
}

// plainPathError says "FILE: no such file or directory".
func plainPathError(err error) error {
	var e *os.PathError
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Path, e.Err)
	}
	return err
}

// inNetns runs f in the network namespace that `ip netns` knows by name or that a path leads
// to, or in this one if name is empty. The thread that has changed its namespace is thrown away afterwards.
func inNetns(name string, f func() error) error {
	if name == "" {
		return f()
	}
	path := name
	if !strings.Contains(name, "/") {
		path = "/run/netns/" + name
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		done <- func() error {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return &exitError{exitFailed, fmt.Errorf("xfrm: open network namespace %s: %w", name, err)}
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return &exitError{exitFailed, fmt.Errorf("xfrm: enter network namespace %s: %w", name, err)}
			}
			return f()
		}()
	}()
	return <-done
}
