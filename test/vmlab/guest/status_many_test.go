package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"espalier/ipsec"
	"espalier/test/lab"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// What `espalier status` of ten thousand SAs of the kernel's costs, beside ip's list of them: CPU time of each, for
// this machine is emulated, and slow.
func TestLongStatus(t *testing.T) {
	const pairs = 5000
	l := lab.New(t, "p4p1")
	installMany(t, l.A, pairs)
	start := time.Now()
	own := cpuOf(t, l.A, Espalier, "status", "--sad", "kernel", "--interval", "1s", "-o", "json")
	took := time.Since(start)
	peer := cpuOf(t, l.A, "ip", "-s", "xfrm", "state", "list")
	t.Logf("espalier status of %d SAs: %s of CPU, in %s with the interval of 1 s; ip -s xfrm state: %s of CPU; ratio %.2f",
		2*pairs, own.Round(time.Millisecond), took.Round(time.Millisecond), peer.Round(time.Millisecond), own.Seconds()/peer.Seconds())
}

// installMany adds pairs of SAs in software to a host's kernel, of which none carries anything.
func installMany(t *testing.T, h *lab.Host, pairs int) {
	t.Helper()
	c := kernelOf(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var requests []client.Request
	for i := range pairs {
		peer := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		for way := range 2 {
			key := make([]byte, 20)
			binary.BigEndian.PutUint32(key, uint32(2*i+way))
			sa := &ipsec.SA{
				Src: lab.A4, Dst: peer, SPI: ipsec.SPI(0x1000 + 2*i + way), Mode: ipsec.Tunnel, Direction: ipsec.Outbound,
				RequestID: uint32(i + 1), Key: ipsec.NewKey(key), ICVBits: 128,
			}
			if way == 1 {
				sa.Src, sa.Dst, sa.Direction, sa.Window = sa.Dst, sa.Src, ipsec.Inbound, 64
			}
			s, err := xfrm.StateFromEngine(sa)
			if err != nil {
				t.Fatal(err)
			}
			requests = append(requests, client.AddState(s))
		}
	}
	if err := errors.Join(c.Batch(ctx, requests)...); err != nil {
		t.Fatal(err)
	}
}

// cpuOf is the CPU time of a program, from its start to its end.
func cpuOf(t *testing.T, h *lab.Host, name string, args ...string) time.Duration {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdout = io.Discard
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
