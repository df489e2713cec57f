package probe

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestLog(t *testing.T) {
	if text, ok := parseKmsg([]byte("6,339,5140900,-;mlx5e: IPSec ESP; enabled\n DEVICE=+pci\n")); text != "mlx5e: IPSec ESP; enabled" || !ok {
		t.Errorf("%q %v", text, ok)
	}
	for line, want := range map[string]string{
		"<6>[    5.140900] mlx5e: [x] y\n": "mlx5e: [x] y", "<12>plain\n": "plain", "[broken\n": "[broken", "": "",
	} {
		if got := parseSyslog(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// TestKernelLog reads the log of this machine: it comes to an end, or says that it may not be read.
func TestKernelLog(t *testing.T) {
	for name, read := range map[string]func() ([]string, error){"/dev/kmsg": readKmsg, "syslog(2)": readSyslog} {
		lines, err := read()
		switch {
		case err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist):
			t.Errorf("%s: %v", name, err)
		case err == nil && (len(lines) == 0 || slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "\n") })):
			t.Errorf("%s: %d lines", name, len(lines))
		case err != nil && os.Geteuid() == 0 && os.Getenv("CI") != "" && name == "syslog(2)":
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMeasureSpeed(t *testing.T) {
	s, err := MeasureSpeed(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if s.Implementation == "" || s.Cores < 1 || s.Gbps[128] <= 0 || s.Gbps[256] <= 0 || len(s.Gbps) != 2 {
		t.Errorf("%+v", s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := MeasureSpeed(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	l := speedLayer(Speed{Implementation: "std", Cores: 8, Gbps: map[int]float64{128: 31.25, 256: 27}}, nil)
	if l.Summary != "AES-128-GCM 31.2 Gb/s, AES-256-GCM 27.0 Gb/s on one core of 8 (std)" || len(l.Checks) != 2 || l.Checks[0].Answer != Yes {
		t.Errorf("%+v", l)
	}
	if l := speedLayer(Speed{}, errors.New("no AES")); l.Checks[0].Answer != Unknown || l.Checks[0].Weight != Informs {
		t.Errorf("%+v", l)
	}
}

// TestUnseen: what was refused is told, each once, and nothing else is.
func TestUnseen(t *testing.T) {
	sys := System{
		Root: files(with(modular, "proc/config.gz", "denied", "etc/modprobe.d/secret.conf", "denied", "proc/self/status", "Name:\tx\nUid:\t0\t1000\t0\t0\n")),
		Log:  func() ([]string, error) { return nil, syscall.EPERM },
	}
	r, err := Examine(context.Background(), sys, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/proc/config.gz", "/etc/modprobe.d/secret.conf"} {
		if !slices.Contains(r.Unseen, want) {
			t.Errorf("%v: no %s", r.Unseen, want)
		}
	}
	if r.AsRoot || slices.ContainsFunc(r.Unseen, func(s string) bool { return strings.Contains(s, "boot") }) {
		t.Errorf("%+v", r)
	}
	refused := new(refusals)
	watched := refused.watch(sys)
	watched.Log()
	fs.ReadFile(watched.Root, "proc/config.gz")
	fs.ReadFile(watched.Root, "proc/config.gz")
	fs.ReadFile(watched.Root, "not/there")
	if got := strings.Join(refused.what, ","); got != "the kernel's log,/proc/config.gz" {
		t.Error(got)
	}
}

func TestConclude(t *testing.T) {
	layer := func(w Weight, a Answer, why string) []Layer {
		return []Layer{{Checks: []Check{{Weight: w, Answer: a, Why: why}}}}
	}
	host := layer(Required, Yes, "built in")
	r := Report{Layers: host, Devices: []Device{
		{Name: "a", Layers: layer(Required, Yes, "")}, {Name: "b", Layers: layer(Required, Unknown, "dark")}, {Name: "c", Layers: layer(Required, No, "old")}, {Name: "d", Layers: layer(Required, Unknown, "dark, too")},
	}}
	r.Conclude()
	if r.Readiness != NotReady || r.Reason != "old" || r.Devices[0].Readiness != Ready || r.Devices[1].Readiness != Unclear || r.Devices[2].Readiness != NotReady {
		t.Errorf("%+v", r)
	}
	r.Devices = r.Devices[:2]
	if r.Conclude(); r.Readiness != Unclear || r.Reason != "dark" {
		t.Errorf("%+v", r)
	}
	r.Devices = r.Devices[:1]
	if r.Conclude(); r.Readiness != Ready || r.Reason != "" {
		t.Errorf("%+v", r)
	}
	r.Layers = layer(Required, No, "kernel built without XFRM_OFFLOAD")
	if r.Conclude(); r.Readiness != NotReady || r.Devices[0].Readiness != NotReady {
		t.Errorf("%+v", r)
	}
	r.Devices = nil
	if r.Conclude(); r.Reason != "kernel built without XFRM_OFFLOAD" {
		t.Errorf("%+v", r)
	}
}
