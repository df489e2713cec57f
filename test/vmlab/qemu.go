package vmlab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"espalier/test/vmlab/guest"
)

// machine is one run of QEMU.
type machine struct {
	kernel, initramfs string
	dir               string // for sockets and output
	net               bool
	control           bool // somebody listens at controlSocket
	capture           string
}

func (m *machine) results() string { return filepath.Join(m.dir, "results") }
func (m *machine) files() string   { return filepath.Join(m.dir, "files") }
func (m *machine) console() string { return filepath.Join(m.dir, "console") }

// Kernel parameters without a value end up as arguments of the first process, which looks at
// none.
const parameters = "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check mitigations=off cryptomgr.notests"

func (m *machine) arguments() []string {
	args := []string{
		"-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", m.kernel, "-initrd", m.initramfs, "-append", parameters,
		"-serial", "file:" + m.console(),
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=results,path=" + m.results(),
		"-device", "virtserialport,chardev=results,name=" + guest.ResultsPort,
		"-chardev", "file,id=files,path=" + m.files(),
		"-device", "virtserialport,chardev=files,name=" + guest.FilesPort,
	}
	if m.control {
		args = append(args,
			"-chardev", "socket,id=control,path="+filepath.Join(m.dir, controlSocket),
			"-device", "virtserialport,chardev=control,name="+guest.ControlPort)
	}
	if m.net {
		args = append(args,
			"-netdev", "stream,id=n0,server=off,addr.type=unix,addr.path="+filepath.Join(m.dir, netSocket),
			"-device", "virtio-net-pci,netdev=n0,mac="+GuestMAC+",romfile=")
		if m.capture != "" {
			args = append(args, "-object", "filter-dump,id=f0,netdev=n0,file="+m.capture)
		}
	}
	return args
}

// run boots the machine and waits until it has switched itself off. It is ended after the
// time-out, and when this process ends in whatever way.
func (m *machine) run(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.arguments()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	// The signal comes when the thread ends that started QEMU: it has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("not done after %s", timeout)
	}
	if err != nil {
		return fmt.Errorf("qemu: %w\n%s", err, stderr.String())
	}
	return nil
}

// consoleTail is the end of what the kernel, and the tests on stderr, have said.
func (m *machine) consoleTail() string {
	const most = 8 << 10
	text, err := os.ReadFile(m.console())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
