package boot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/deploy/boot"
)

// held tells whether somebody has the port.
func held(port uint16) bool {
	c, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err == nil {
		c.Close()
	}
	return err != nil
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// group are the processes of the group of a port's holder.
func group(t *testing.T, p *boot.Place, port uint16) (pids []int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.Dir, fmt.Sprintf("encap-%d.lock", port)))
	if err != nil {
		return nil
	}
	leader := strings.TrimSpace(string(text))
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		stat, _ := os.ReadFile(path)
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) > 2 && f[0] != "Z" && f[2] == leader {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if strconv.Itoa(pid) == leader {
				pids = append([]int{pid}, pids...)
			} else {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func holding(t *testing.T, ports ...uint16) *boot.Place {
	t.Helper()
	inNamespace(t)
	p := place(t)
	p.Program = "/proc/self/exe"
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	t.Cleanup(func() {
		if err := p.Hold(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	if err := p.Hold(ctx, ports); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestHolderComesBack(t *testing.T) {
	p := holding(t, 4500, 4501)
	if !held(4500) || !held(4501) || held(4502) {
		t.Fatal("the ports are not held")
	}
	first := group(t, p, 4500)
	if len(first) != 2 {
		t.Fatalf("processes: %v", first)
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", first[1]))
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapInh:\t0000000000000000", "CapAmb:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the holder is not confined: no %q in\n%s", want, status)
		}
	}
	if err := p.Hold(t.Context(), []uint16{4500, 4501}); err != nil || group(t, p, 4500)[1] != first[1] {
		t.Errorf("the same again: %v, or another process", err)
	}
	if err := p.Install(nil); err != nil || group(t, p, 4500)[1] != first[1] {
		t.Errorf("no guard any more: %v, or another process", err)
	}
	kill := func(pid int) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	kill(first[1])
	eventually(t, "another holder", func() bool { now := group(t, p, 4500); return len(now) == 2 && now[1] != first[1] && held(4500) })

	// Without its supervisor it goes on; who asks for it gives it another one.
	kill(group(t, p, 4500)[0])
	eventually(t, "no supervisor", func() bool { return len(group(t, p, 4500)) == 1 })
	if !held(4500) {
		t.Error("the port went with the supervisor")
	}
	if err := p.Hold(t.Context(), []uint16{4500}); err != nil || len(group(t, p, 4500)) != 2 {
		t.Errorf("Hold: %v, processes %v", err, group(t, p, 4500))
	}
	if held(4501) || len(group(t, p, 4501)) != 0 {
		t.Error("a port that is not wanted any more is held")
	}

	// A boot without systemd.
	syscall.Kill(-group(t, p, 4500)[0], syscall.SIGKILL)
	eventually(t, "no holder", func() bool { return !held(4500) })
	if lost := p.Lost(nil, []uint16{4500}); len(lost) != 1 || lost[0] != "nobody holds UDP port 4500 for the kernel's ESP" {
		t.Errorf("lost: %q", lost)
	}
	if err := p.Resume(t.Context()); err != nil || !held(4500) {
		t.Errorf("Resume: %v", err)
	}
	if lost := p.Lost(nil, []uint16{4500}); len(lost) > 0 {
		t.Errorf("lost: %q", lost)
	}
	// ESP may come by it for longer than anything is guarded.
	if err := p.Remove(); err != nil || !held(4500) {
		t.Errorf("Remove: %v; or the port is not held any more", err)
	}
	if err := p.Hold(t.Context(), nil); err != nil || held(4500) {
		t.Errorf("Hold nothing: %v; or the port is held", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(p.Dir)); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestHoldSaysWhyNot(t *testing.T) {
	inNamespace(t)
	taken, err := net.ListenPacket("udp4", ":4500")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := place(t)
	p.Program = "/proc/self/exe"
	if err := p.Hold(t.Context(), []uint16{4500}); err == nil || !strings.Contains(err.Error(), "address already in use: another program has the port") {
		t.Errorf("Hold: %v", err)
	}
	eventually(t, "all processes gone", func() bool { return len(group(t, p, 4500)) == 0 })
	if err := p.Hold(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestHolderDiscards: what is not ESP is counted, and answered by nobody.
func TestHolderDiscards(t *testing.T) {
	inNamespace(t)
	lo, err := netlink.LinkByName("lo")
	if err = errors.Join(err, netlink.LinkSetUp(lo)); err != nil {
		t.Fatal(err)
	}
	h, err := boot.OpenHolder(4500)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var log bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx, &log) }()
	for _, address := range []string{"127.0.0.1:4500", "[::1]:4500"} {
		c, err := net.Dial("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 3 {
			// A message of IKE: four zeros come before it (RFC 3948 §2.2).
			if _, err := c.Write(append(make([]byte, 4), "a message of IKE, which is long enough"...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all are counted", func() bool { return h.Strays() == 6 })
	stop()
	if err := <-done; err != nil || log.String() != "6 datagrams were not ESP and have been discarded, 6 in all\n" {
		t.Errorf("%v, %q", err, &log)
	}
}

// TestHolderPassesPolicies: policies that let nothing in or out are about what is inside of ESP.
func TestHolderPassesPolicies(t *testing.T) {
	inNamespace(t)
	// The kernel applies no policies on loopback.
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "d0"}, PeerName: "d1"}); err != nil {
		t.Fatal(err)
	}
	d, _ := netlink.LinkByName("d0")
	address, _ := netlink.ParseAddr("10.0.0.1/24")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	block := &netlink.XfrmPolicy{Src: all, Dst: all, Dir: netlink.XFRM_DIR_OUT, Action: netlink.XFRM_POLICY_BLOCK}
	if err := errors.Join(netlink.AddrAdd(d, address), netlink.LinkSetUp(d), netlink.XfrmPolicyAdd(block)); err != nil {
		t.Fatal(err)
	}
	send := func(fd int) error {
		return unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 0, 0, 2}})
	}
	plain, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(plain)
	if err := send(plain); !errors.Is(err, unix.EPERM) {
		t.Fatalf("the control: %v: the policy does not block", err)
	}
	bypass, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(bypass)
	if err := errors.Join(boot.Prepare(false)(bypass), send(bypass)); err != nil {
		t.Errorf("a socket with the policy: %v", err)
	}
}

// TestHolderTellsSystemd: as a unit of Type=notify, from privileges that the unit leaves it.
func TestHolderTellsSystemd(t *testing.T) {
	inNamespace(t)
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	words := []string{"/proc/self/exe", boot.HoldCommand, "--port", "500"}
	if setpriv, err := exec.LookPath("setpriv"); err == nil {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		words[0] = self
		words = append([]string{setpriv, "--bounding-set=-all,+net_admin,+net_bind_service,+setuid,+setgid", "--no-new-privs"}, words...)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = []string{"NOTIFY_SOCKET=" + path}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	text := make([]byte, 100)
	n, err := c.Read(text)
	if err != nil || string(text[:n]) != "READY=1" || !held(500) {
		cmd.Process.Kill()
		cmd.Wait()
		t.Errorf("%q, %v; it says %s", text[:n], err, &said)
	}
}
