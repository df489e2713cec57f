package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// start makes of the bare kernel what tests expect of a machine.
func start() error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := openResults(); err != nil {
		return err
	}
	arguments, err := lines(ArgumentsFile)
	if err != nil {
		return err
	}
	os.Args = append([]string{"init"}, arguments...)
	for name, value := range map[string]string{"PATH": "/bin", "TMPDIR": "/tmp", "HOME": "/root"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func mountAll() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}, {"debugfs", "/sys/kernel/debug"},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return os.Symlink("/run", "/var/run")
}

func loadModules() error {
	names, err := lines(ModulesFile)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := load(name); err != nil {
			return err
		}
	}
	return nil
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", filepath.Base(module), err)
	}
	return nil
}

// openResults makes the port to the host standard output. Standard error is the console.
func openResults() error {
	f, err := openPort(ResultsPort, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Dup3(int(f.Fd()), 1, 0)
}

// openPort opens a port to the host, with the flags of os.OpenFile.
func openPort(name string, flags int) (*os.File, error) {
	ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, p := range ports {
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(string(text)) == name {
			return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(p))), flags, 0)
		}
	}
	return nil, fmt.Errorf("the machine has no port for %s", name)
}

func lines(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	return strings.Fields(string(text)), err
}

func powerOff() {
	os.Stdout.Sync()
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
