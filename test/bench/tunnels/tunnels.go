// Package tunnels measures changes of tunnels as their user has them: espalier apply, rotate and down over
// real OpenSSH servers, each in a network namespace of its own with a userspace device, with the same
// program installed there.
//
// One trial has many hosts: how long a change takes, and what of it the handshakes of ssh take. The other
// one has two, and traffic between them: what it costs to replace the keys again and again.
package tunnels

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/host"
	"espalier/test/bench/device/hosts"
	"espalier/test/bench/device/traffic"
	"espalier/test/bench/report"
	"espalier/test/lab"
)

// Run takes root, iperf3 and OpenSSH.
func Run(o report.Options) (results []report.Result, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	many, rotations := o.Hosts, o.Rotations
	if many == 0 {
		many = 50
		if o.Quick {
			many = 5
		}
	}
	if rotations == 0 {
		rotations = 100
		if o.Quick {
			rotations = 3
		}
	}
	if many > mostHosts {
		return nil, fmt.Errorf("--hosts %d: there are addresses for %d", many, mostHosts)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces take root")
	}
	if err := traffic.Tools(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "espalier-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		os.RemoveAll(dir)
		time.Sleep(2 * host.Every) // who keeps a change there sees by then that there is none, and has made a lock again
		os.RemoveAll(dir)
	}()
	progress("building espalier")
	// Installed, as far as espalier can tell: what is in a directory for temporary files it copies.
	installed, err := os.MkdirTemp(cache(), "espalier-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(installed)
	espalier, err := hosts.Build(ctx, installed, "espalier/cmd/espalier")
	if err != nil {
		return nil, err
	}
	runs := o.Runs
	if o.Quick {
		runs = 1
	}
	for _, trial := range []func(*stage) ([]report.Result, error){
		func(s *stage) ([]report.Result, error) { return manyHosts(ctx, s, many, runs) },
		func(s *stage) ([]report.Result, error) { return underLoad(ctx, s, rotations) },
	} {
		s := &stage{dir: dir, espalier: espalier}
		var some []report.Result
		err := s.with(func() (err error) {
			some, err = trial(s)
			return err
		})
		if err != nil {
			return nil, err
		}
		results = append(results, some...)
	}
	return results, nil
}

// cache is a directory for files that stay for a while.
func cache() string {
	dir, err := os.UserCacheDir()
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "" // that for temporary files
	}
	return dir
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench tunnels: "+format+"\n", args...)
}

// site is a host from which commands are given, and the ssh configuration that it has for the others.
type site struct {
	stage *stage
	from  *hosts.Host
	ssh   *lab.SSH
	file  string // that says what tunnels there are
}

// newHost makes a host. It goes with the stage.
func (s *stage) newHost(name string) (*hosts.Host, error) {
	h, err := hosts.NewHost(name, s.dir)
	if err == nil {
		s.Cleanup(func() { h.Close() })
	}
	return h, err
}

// startDevice runs the userspace device where espalier looks for it.
func (s *stage) startDevice(ctx context.Context, h *hosts.Host) (*hosts.Process, error) {
	var st unix.Stat_t
	if err := unix.Fstat(h.Fd(), &st); err != nil {
		return nil, err
	}
	dir := filepath.Join("/run/espalier", fmt.Sprint(st.Ino))
	s.Cleanup(func() { os.RemoveAll(dir) })
	return h.StartDeviceAt(ctx, s.espalier, filepath.Join(dir, hosts.Device+".sock"))
}

// newSite has an ssh configuration, without any server, for commands on a host.
func (s *stage) newSite(from *hosts.Host) *site {
	return &site{stage: s, from: from, ssh: lab.NewSSH(s), file: filepath.Join(from.Dir, "tunnels.yaml")}
}

// run gives a command about the file.
func (s *site) run(ctx context.Context, command string, args ...string) (cost, error) {
	return s.measure(ctx, s.stage.espalier, append([]string{command, s.file, "--ssh-config", s.ssh.Config}, args...)...)
}
