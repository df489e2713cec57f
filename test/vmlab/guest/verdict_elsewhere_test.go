package guest

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
	"espalier/xfrm/client"
)

const elsewhereSection = VerdictSection + "on other devices"

// tellVerdict compares what is said of A's SA for sending, and has the host note it.
func tellVerdict(t *testing.T, name string, is, want truth, v statusView, verdict string) {
	t.Helper()
	sa := v.of(pair4.SPI)
	if sa == nil || sa.Verdict != verdict || is != want {
		t.Errorf("%s: in truth %s, want %s; status says %+v, want %s", name, is, want, sa, verdict)
		return
	}
	Tell(elsewhereSection, name, string(is)+" → "+sa.Verdict)
}

// wireTruth is who encrypts what leaves a host in packets of an SPI, by what a tap behind all
// encryption shows: software, or nobody.
func wireTruth(packets [][]byte, by truth) truth {
	switch crossed, readable := onCable(packets, pair4.SPI); {
	case crossed == 0:
		return neverLeft
	case readable > 0:
		return nobody
	}
	return by
}

// A veth device takes an SA for offload and does nothing with it: the kernel does.
func TestVerdictVeth(t *testing.T) {
	l := lab.New(t, "p4p1")
	for _, h := range l.Hosts() {
		if err := lab.Apply(kernelOf(t, h), h.NS, l.Script(h, pair4)); err != nil {
			t.Fatal(err)
		}
	}
	tap := watchDevice(t, l.Device, lab.Classifier(), l.B.Do)
	v := sendUnder(t, l.A, "", open(t, [2]*lab.Host{l.A, l.B}, []stream{{}}))
	_, packets := tap.stop(t)
	tellVerdict(t, "a veth device that an SA was to be offloaded to", wireTruth(packets, theKernel), theKernel, v, "SOFTWARE")
}

// netdevsim takes SAs for offload and encrypts nothing.
func TestVerdictNetdevsim(t *testing.T) {
	h := lab.NewHost(t, "A", "p4p1")
	nic := newNetdevsim(t, h)
	setUp(t, h, addresses[0]...)
	h.Must("ip", "neighbour", "replace", lab.B4.String(), "lladdr", HostMAC, "dev", h.Device)
	l := &lab.Lab{A: h, Device: h.Device}
	if err := lab.Apply(kernelOf(t, h), h.NS, l.Outbound(h, pair4)+l.Policies(h, pair4)); err != nil {
		t.Fatal(err)
	}
	tap := watchDevice(t, h.Device, lab.Classifier(), h.Do)
	v := sendUnder(t, h, "", open(t, [2]*lab.Host{h, nil}, []stream{{}}))
	_, packets := tap.stop(t)
	_, given := nic.read(t)
	is := wireTruth(packets, theNIC)
	if crossed, _ := onCable(packets, pair4.SPI); is == nobody && given != uint64(crossed) {
		t.Errorf("the driver was given %d packets, and the tap %d", given, crossed)
	}
	tellVerdict(t, "netdevsim, which sends ESP with nothing encrypted", is, nobody, v, "EMULATED")
}

// sendUnder is what is said of a host's SAs, the kernel's or a device's, while it sends.
func sendUnder(t *testing.T, h *lab.Host, socket string, send func()) statusView {
	t.Helper()
	if socket == "" {
		return during(t, observer(t, h, kernelOf(t, h), false, false), send)
	}
	device, err := client.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	return during(t, observer(t, h, device, true, false), func() {
		send()
		for start := time.Now(); ; time.Sleep(rest) { // until the process has had its turn
			s, err := device.GetState(t.Context(), pair4.SAs()[0].ID())
			if err != nil || s.Replay == nil || s.Replay.OSeq >= burst || time.Since(start) > untilThere {
				return
			}
		}
	})
}

// A userspace device does what a NIC would.
func TestVerdictUserspace(t *testing.T) {
	l := lab.New(t, "p4p1")
	hosts := [2]*lab.Host{l.A, l.B}
	for _, h := range hosts {
		startDevice(t, h)
		script := write(t, h, l.Script(h, pair4))
		h.Must(Espalier, "xfrm", "--sad", "unix:"+h.Socket, "--allow-key-reuse", "-batch", script)
	}
	tap := watchDevice(t, l.Device, lab.Classifier(), l.B.Do)
	v := sendUnder(t, l.A, l.A.Socket, open(t, hosts, []stream{{}}))
	_, packets := tap.stop(t)
	tellVerdict(t, "a userspace device of espalier's", wireTruth(packets, theProcess), theProcess, v, "EMULATED")
}

// startDevice runs a userspace device on a host until the test's end.
func startDevice(t *testing.T, h *lab.Host) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Espalier, "dataplane", "--dev", h.Device, "--listen", h.Socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = untilThere
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = h.Start(cmd)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Wait() }) // the test's context has ended by now
	ready := make([]byte, 1<<10)
	if n, err := out.Read(ready); !strings.HasPrefix(string(ready[:n]), "ready ") {
		t.Fatalf("device on host %s: %v\n%s", h.Name, err, said.String())
	}
}

// SAs that went with their NIC are told of by the policies that they leave.
func TestVerdictRemoved(t *testing.T) {
	l := newNICLab(t, "p4p1")
	l.program(t, pair4)
	l.apply(t, l.A, l.States(l.A, software6))
	unload(t, "labnic")
	defer func() {
		if err := load("/modules/labnic.ko"); err != nil {
			t.Errorf("load the NIC's driver again: %v", err)
		}
	}()
	v := during(t, observer(t, l.A, l.kernel[l.A], false, false), func() {})
	_, err := l.kernel[l.A].GetState(context.Background(), pair4.SAs()[0].ID())
	if err == nil {
		t.Error("the offloaded SA is still there")
	}
	if v.of(pair4.SPI) != nil || !v.finds("policy-without-sa") {
		t.Errorf("status says %+v", v)
	}
	if sa := v.of(software6.SPI); sa == nil || sa.Verdict != "IDLE" {
		t.Errorf("of the SA in software status says %+v", sa)
	}
	if !t.Failed() {
		Tell(verdictSection, "the device was removed", string(noSA)+" → no SA, finding policy-without-sa")
	}
}
