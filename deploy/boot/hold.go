package boot

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// HoldCommand is the hidden command of a holder:
//
//	espalier hold-encap --port 4500 [--supervise|--detached]
const HoldCommand = "hold-encap"

const (
	portsFile = "encap.json" // the ports that are to be held
	holdLock  = "encap-%d.lock"
	// readyWithin is how long a holder may take to begin.
	readyWithin = 15 * time.Second
)

// Hold sees to it that a UDP socket takes ESP in UDP (RFC 3948) for the kernel on each of the ports, for
// IPv4 and IPv6, now and after a reboot, and that no others of ours do: those of other ports end, and with
// the last of them what nothing else needs goes. It returns when the sockets are there. Where systemd runs,
// units hold them; else processes of ours, which Load's caller starts again at boot (Resume).
func (p *Place) Hold(ctx context.Context, ports []uint16) error {
	ports = slices.Clone(ports)
	slices.Sort(ports)
	ports = slices.Compact(ports)
	before, _ := p.heldPorts() // what cannot be read is written anew
	var err error
	for _, port := range before {
		if !slices.Contains(ports, port) {
			err = errors.Join(err, p.release(port))
		}
	}
	if len(ports) == 0 {
		if _, missing := os.Lstat(p.Dir); errors.Is(missing, fs.ErrNotExist) {
			return err
		}
		return errors.Join(err, remove(filepath.Join(p.Dir, portsFile)), p.locked(func() error {
			return errors.Join(p.tidy(), remove(filepath.Join(p.Dir, lockFile)))
		}))
	}
	text, jsonErr := json.Marshal(ports)
	if jsonErr != nil {
		return jsonErr
	}
	err = errors.Join(err, p.write(portsFile, text))
	for _, port := range ports {
		if holdErr := p.hold(ctx, port); holdErr != nil {
			err = errors.Join(err, fmt.Errorf("hold UDP port %d for the kernel's ESP: %w", port, holdErr))
		}
	}
	return err
}

// Resume starts the holders again that no unit starts: what a host without systemd does at boot.
func (p *Place) Resume(ctx context.Context) error {
	ports, err := p.heldPorts()
	ofUnit := os.Getenv("INVOCATION_ID") != "" // systemd.exec(5)
	if err != nil || len(ports) == 0 || p.Systemd || ofUnit {
		return err
	}
	return p.Hold(ctx, ports)
}

func (p *Place) heldPorts() ([]uint16, error) {
	text, err := os.ReadFile(filepath.Join(p.Dir, portsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ports []uint16
	if err == nil {
		err = json.Unmarshal(text, &ports)
	}
	return ports, err
}

func (p *Place) hold(ctx context.Context, port uint16) error {
	program, err := p.program()
	if err != nil {
		return err
	}
	if p.Units != "" {
		name := fmt.Sprintf(encapUnit, port)
		changed, err := p.installUnit(name, p.encapText(program, port), normalTarget)
		if err != nil {
			return err
		}
		if p.Systemd {
			if changed {
				err = systemctl("daemon-reload")
			}
			return errors.Join(err, systemctl("start", p.unitName(name)))
		}
	}
	return p.detach(ctx, program, port)
}

func (p *Place) release(port uint16) error {
	return errors.Join(p.removeUnits(fmt.Sprintf(encapUnit, port)), p.end(port))
}

// detach starts a supervisor of a holder, unless there is one, and waits until the socket is there. Both
// are a process group of their own, which holds a lock on the file that has its number.
func (p *Place) detach(ctx context.Context, program string, port uint16) error {
	lock, err := p.vacant(ctx, port)
	if err != nil || lock == nil {
		return err
	}
	defer lock.Close()
	ready, far, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	complaints, err := os.CreateTemp(p.Dir, ".hold-*")
	if err != nil {
		far.Close()
		return err
	}
	defer complaints.Close()
	os.Remove(complaints.Name())
	cmd := exec.Command(program, HoldCommand, "--port", fmt.Sprint(port), "--supervise")
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{far, lock} // 3 and 4: see supervise
	cmd.Stderr = complaints
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	far.Close()
	if err != nil {
		return err
	}
	go cmd.Wait() // as long as this process lives
	if err := writeAt(lock, fmt.Sprintln(cmd.Process.Pid)); err != nil {
		return errors.Join(err, unix.Kill(-cmd.Process.Pid, unix.SIGKILL))
	}
	if err := awaitReady(ctx, ready); err != nil {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		text := make([]byte, 4096)
		n, _ := complaints.ReadAt(text, 0)
		if said := strings.TrimSpace(string(text[:n])); said != "" {
			return errors.New(said)
		}
		return err
	}
	return nil
}

// vacant takes the lock of a port's holder. It is nil where a supervisor lives and the socket is there: one
// that lives may be between two holders, or about to die.
func (p *Place) vacant(ctx context.Context, port uint16) (lock *os.File, err error) {
	ctx, stop := context.WithTimeout(ctx, readyWithin)
	defer stop()
	for {
		lock, held, err := p.holdLock(port)
		if err != nil || !held {
			return lock, err
		}
		switch supervised := p.supervised(port); {
		case supervised && bound(port):
			return nil, nil
		case !supervised: // only the holder itself is left
			if err := p.end(port); err != nil {
				return nil, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("its supervisor lives, but the port is nobody's: %w", context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// holdLock opens the lock of a port's holder, and takes it unless there is a holder.
func (p *Place) holdLock(port uint16) (lock *os.File, held bool, err error) {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return nil, false, err
	}
	lock, err = os.OpenFile(filepath.Join(p.Dir, fmt.Sprintf(holdLock, port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	switch err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		lock.Close()
		return nil, true, nil
	case err != nil:
		lock.Close()
		return nil, false, err
	}
	return lock, false, nil
}

// end ends the holder of a port that is no unit's.
func (p *Place) end(port uint16) error {
	path := filepath.Join(p.Dir, fmt.Sprintf(holdLock, port))
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return remove(path)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the holder of UDP port %d does not end: %w", port, err)
		}
		// Who holds the lock is of the group, so its number is nobody else's.
		if group := groupIn(f); group > 1 {
			unix.Kill(-group, unix.SIGKILL)
		}
	}
}

// supervised tells whether the supervisor, the first of its group, lives.
func (p *Place) supervised(port uint16) bool {
	f, err := os.Open(filepath.Join(p.Dir, fmt.Sprintf(holdLock, port)))
	if err != nil {
		return false
	}
	defer f.Close()
	group := groupIn(f)
	return group > 1 && unix.Kill(group, 0) == nil
}

func groupIn(f *os.File) (group int) {
	var text [32]byte
	n, _ := f.ReadAt(text[:], 0)
	fmt.Sscan(string(text[:n]), &group)
	return group
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return errors.Join(err, f.Truncate(int64(len(text))))
}

const readyWord = "ready\n"

func awaitReady(ctx context.Context, from *os.File) error {
	deadline := time.Now().Add(readyWithin)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := from.SetReadDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { from.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(from).ReadString('\n')
	if line == readyWord {
		return nil
	}
	return fmt.Errorf("the holder does not say that it is ready: %w", err)
}

// encapText is the unit of a holder.
func (p *Place) encapText(program string, port uint16) string {
	return unit{
		"Unit", fields{
			{"Description", fmt.Sprintf("UDP port %d for the kernel's ESP, of espalier's tunnels", port)},
			{"Documentation", "man:espalier(1)"},
			{"After", p.unitName(guardUnit)},
			{"Before", "network.target"},
			{"StartLimitIntervalSec", "0"},
			{"RequiresMountsFor", quoted(filepath.Dir(program))},
		},
		"Service", append(fields{
			{"Type", "notify"},
			{"ExecStart", command(program, HoldCommand, "--port", fmt.Sprint(port))},
			{"Restart", "always"},
			{"RestartSec", "100ms"},
			{"TimeoutStartSec", "15s"},
			{"TimeoutStopSec", "2s"},
			{"OOMScoreAdjust", "-500"},
			// It gives all of them up when the sockets are there.
			{"CapabilityBoundingSet", "CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID"},
			{"PrivateDevices", "yes"},
			{"ProtectKernelTunables", "yes"},
			{"RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"},
		}, append(p.surroundings(), hardening...)...),
		"Install", fields{{"WantedBy", normalTarget}},
	}.String()
}

// leftovers tells whether anything is left that runs the copy of the program.
func (p *Place) leftovers() (bool, error) {
	for _, name := range []string{guardFile, rotationsFile, portsFile} {
		if _, err := os.Lstat(filepath.Join(p.Dir, name)); err == nil {
			return true, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return true, err
		}
	}
	return false, nil
}
