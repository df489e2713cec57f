package guest

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
)

// The kernel's ESP and the userspace device understand each other, and both refuse what they
// are sent a second time.
func TestInterop(t *testing.T) {
	l := join(t)
	for _, pair := range InteropPairs {
		a, _ := pair.Ends()
		t.Run(pair.Name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "script")
			// With ESN older kernels want a window for sending too.
			script := strings.ReplaceAll(l.Script(l.B, pair.Pair), " flag esn offload", " flag esn replay-window 64 offload")
			if err := os.WriteFile(program, []byte(script), 0o600); err != nil {
				t.Fatal(err)
			}
			must(t, Espalier, "xfrm", "--sad", "kernel", "-batch", program)
			must(t, "ping", "-n", "-q", "-c", "5", "-i", "0.2", "-W", "5", a.String())
			if err := echo(netip.AddrPortFrom(a, EchoPort), size); err != nil {
				t.Errorf("TCP: %v", err)
			}
			if !t.Failed() {
				Tell("Userspace device and kernel ESP", pair.Name, "ping and TCP pass")
			}
		})
	}
	drops := decodeCounters(t, must(t, Espalier, "xfrm", "--sad", "kernel", "-o", "json", "drops"))
	if drops["XfrmInStateSeqError"] != Replays || len(drops) != 1 {
		t.Errorf("the kernel dropped %v, want %d replayed packets", drops, Replays)
	}
	if !t.Failed() {
		Tell("Userspace device and kernel ESP", "packets sent a second time", "both refuse them")
	}
}

// join makes the VM host B on the lab's cable.
func join(t *testing.T) *lab.Lab {
	t.Helper()
	l := &lab.Lab{A: &lab.Host{}, B: &lab.Host{}, Device: "p4p1"}
	must(t, "ip", "link", "set", "eth0", "name", l.Device)
	must(t, "ip", "address", "add", netip.PrefixFrom(lab.B4, 24).String(), "dev", l.Device)
	must(t, "ip", "address", "add", netip.PrefixFrom(lab.B6, 64).String(), "dev", l.Device, "nodad")
	must(t, "ip", "link", "set", l.Device, "up")
	// Policies take neighbour discovery for what is to be encrypted.
	must(t, "ip", "neighbour", "add", lab.A6.String(), "lladdr", HostMAC, "dev", l.Device)
	return l
}

// echo has size bytes sent back.
func echo(to netip.AddrPort, size int) error {
	conn, err := net.DialTimeout("tcp", to.String(), 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i % 251)
	}
	go conn.Write(data)
	got := make([]byte, size)
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}
