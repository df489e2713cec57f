package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"espalier/internal/netns"
	"espalier/ipsec"
	"espalier/xfrm/client"
)

// host is one of the two: a namespace, the device process in it and the connection to it.
type host struct {
	name    string
	ns      *netns.NS
	ifindex int

	device *exec.Cmd
	exited chan error
	socket string
	client *client.Client
	db     ipsec.Database
}

const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

// startDevice runs `program dataplane` in the namespace and connects to it once it is ready.
func (h *host) startDevice(ctx context.Context, program, dir string) error {
	err := h.ns.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err == nil {
			h.ifindex = dev.Index
		}
		return err
	})
	if err != nil {
		return err
	}
	h.socket = filepath.Join(dir, h.name, device+".sock")
	h.device = exec.Command(program, "dataplane", "--dev", device, "--listen", h.socket, "--pmtu-probe", "0") // nothing but the demo's own traffic
	// Ctrl-C reaches the whole process group; the device is stopped by us, in order. Should
	// we be killed, it goes with us.
	h.device.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var complaint bytes.Buffer // read once the process has ended
	h.device.Stderr = &complaint
	stdout, err := h.device.StdoutPipe()
	if err != nil {
		return err
	}
	if err := h.ns.Start(h.device); err != nil {
		return fmt.Errorf("start the device: %w", err)
	}
	ready := make(chan bool, 1)
	h.exited = make(chan error, 1)
	go func() {
		line := bufio.NewScanner(stdout)
		ready <- line.Scan() && strings.HasPrefix(line.Text(), "ready ")
		h.exited <- h.device.Wait()
	}()
	fail := func(err error) error {
		h.device.Process.Kill()
		<-h.exited
		h.device = nil
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(complaint.String()))
	}
	select {
	case ok := <-ready:
		if !ok {
			return fail(errors.New("the device did not start"))
		}
	case <-ctx.Done():
		return fail(ctx.Err())
	case <-time.After(startTimeout):
		return fail(fmt.Errorf("the device was not ready after %s", startTimeout))
	}
	if h.client, err = client.Dial(h.socket); err != nil {
		return err
	}
	h.db = h.client.Database()
	return nil
}

func (h *host) interfaceName(index int) string {
	if index == h.ifindex {
		return device
	}
	return ""
}

func (h *host) info() HostInfo {
	i := HostInfo{Name: h.name, Socket: h.socket, PID: os.Getpid()}
	if h.device != nil && h.device.Process != nil {
		i.PID = h.device.Process.Pid
	}
	return i
}

// stop ends the device.
func (h *host) stop() error {
	var errs []error
	if h.client != nil {
		errs = append(errs, h.client.Close())
	}
	if h.device != nil && h.device.Process != nil {
		errs = append(errs, h.stopDevice())
	}
	return errors.Join(errs...)
}

// close gives the namespace up.
func (h *host) close() error { return h.ns.Close() }

func (h *host) stopDevice() error {
	h.device.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-h.exited:
		if err != nil {
			return fmt.Errorf("host %s: the device ended with %w", h.name, err)
		}
		return nil
	case <-time.After(stopTimeout):
		h.device.Process.Kill()
		<-h.exited
		return fmt.Errorf("host %s: the device did not stop within %s and was killed", h.name, stopTimeout)
	}
}
