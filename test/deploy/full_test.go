package deploy

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"espalier/internal/netns"
	"espalier/test/lab"
)

// full skips what takes minutes, or measures: test/run --full has it.
func full(t *testing.T) {
	t.Helper()
	if os.Getenv("ESPALIER_FULL") == "" {
		t.Skip("ESPALIER_FULL is not set")
	}
}

// TestManyTunnels sets up tunnels between one host and 50 others, each with a device and an ssh server of its
// own on one Ethernet. How long it takes is told.
func TestManyTunnels(t *testing.T) {
	full(t)
	const others = 50
	s := &site{Lab: &lab.Lab{Device: "p4p1"}, ssh: lab.NewSSH(t), servers: map[*lab.Host]*lab.SSHServer{}, t: t}
	// All of it is on one machine: what OpenSSH prefers takes 15 times as much of the CPU, at each end.
	s.ssh.Host("*", "KexAlgorithms curve25519-sha256")
	ethernet := lab.NewHost(t, "S", "")
	ethernet.Must("ip", "link", "add", "br0", "type", "bridge")
	ethernet.Must("ip", "link", "set", "br0", "up")
	join := func(i int, name string) *lab.Host {
		h := lab.NewHost(t, name, "p4p1")
		h.Program = lab.Plain(t)
		port := fmt.Sprintf("port%d", i)
		at := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 1, byte(i)}), 24)
		if err := netns.Cable(netns.End{NS: ethernet.NS, Name: port}, netns.End{NS: h.NS, Name: "p4p1", Addresses: []netip.Prefix{at}}); err != nil {
			t.Fatal(err)
		}
		ethernet.Must("ip", "link", "set", port, "master", "br0")
		s.startDevice(t, h)
		return h
	}
	s.A = join(1, "A")
	s.from = s.A
	var hosts []*lab.Host
	text := "tunnels:\n"
	for i := range others {
		name := fmt.Sprintf("db%d", i+2)
		h := join(i+2, name)
		at := netip.AddrFrom4([4]byte{192, 168, 1, byte(i + 2)})
		s.serve(h, name, at)
		hosts = append(hosts, h)
		text += fmt.Sprintf("  - name: %s\n    hosts: [{address: 192.168.1.1, dev: p4p1}, {address: %s, dev: p4p1, ssh: root@%s}]\n", name, at, name)
	}
	s.write(t, text)
	timed := func(command string, args ...string) string {
		start := time.Now()
		cmd, out := s.start(t, command, args...)
		timer := time.AfterFunc(3*time.Minute, func() { cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		t.Logf("%s: %.1f s; CPU of it and its ssh: %.1f s", command, time.Since(start).Seconds(), (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
		return out.String()
	}
	out := timed("apply", "--grace", "0s")
	if !strings.HasSuffix(out, "\nIPSec tunnel configured successfully\n") {
		t.Errorf("%s", out)
	}
	t.Logf("%s", out[strings.LastIndex(out, "[#]"):])
	for i := range hosts {
		if !s.A.Ping(netip.AddrFrom4([4]byte{192, 168, 1, byte(i + 2)}), 1) {
			t.Errorf("no answer from host %d", i)
		}
	}
	timed("apply")
	timed("rotate", "--grace", "0s")
	timed("down")
	for _, h := range append(hosts, s.A) {
		if left := sas(t, h) + policies(t, h); left != "" {
			t.Errorf("host %s: %s", h.Name, left)
		}
	}
}

// startDevice starts a host's device where espalier looks for it.
func (s *site) startDevice(t *testing.T, h *lab.Host) {
	t.Helper()
	h.Socket = filepath.Join("/run/espalier", fmt.Sprint(inode(t, h)), "p4p1.sock")
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(h.Socket)) })
	h.StartDevice()
}
