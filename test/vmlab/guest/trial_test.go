package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/ipsec"
	"espalier/probe"
	"espalier/probe/trial"
	"espalier/test/lab"
	"espalier/xfrm"
	"github.com/vishvananda/netlink"
)

// tryNIC makes a trial on the host's device, and wants nothing of it to be left.
func tryNIC(t *testing.T, h *lab.Host) *trial.Result {
	t.Helper()
	o := trial.Options{Device: h.Device, StateDir: filepath.Join(h.Dir, "state"), Scope: "host"}
	inside(t, h, func() error {
		link, err := netlink.LinkByName(h.Device)
		if err != nil {
			return err
		}
		o.Ifindex = link.Attrs().Index
		nic, err := probe.AskNIC(h.Device)
		o.Driver = nic.Driver
		return err
	})
	before := spis(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := trial.Run(ctx, kernelOf(t, h), o)
	if err != nil {
		t.Fatal(err)
	}
	if after := spis(t, h); !slices.Equal(before, after) {
		t.Errorf("before there were the SAs %v, after it %v", before, after)
	}
	return r
}

// spis of the SAs that are there.
func spis(t *testing.T, h *lab.Host) (found []ipsec.SPI) {
	t.Helper()
	for s, err := range kernelOf(t, h).States(t.Context(), xfrm.StateFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, s.SPI)
	}
	slices.Sort(found)
	return found
}

// answers counts what came of the cases of one kind of offload, by key.
func answers(r *trial.Result, offload string) map[string]int {
	found := make(map[string]int)
	for _, c := range r.Cases {
		if c.Offload == offload {
			answer := fmt.Sprintf("%d %s", c.KeyBits, c.Outcome)
			if c.Errno+c.Message != "" {
				answer += " " + c.Errno + ": " + c.Message
			}
			found[answer]++
		}
	}
	return found
}

// readiness that follows from the trial alone.
func readiness(r *trial.Result) probe.Readiness {
	ready, _ := probe.Judge([]probe.Layer{r.Layer()})
	return ready
}

// Of each kind of offload there are 27 cases with AES-256 and 16 each with the others.
func all(words string) map[string]int {
	return map[string]int{"256 " + words: 27, "128 " + words: 16, "192 " + words: 16}
}

// What the trial comes to on the lab's NIC, in every state that shows when SAs are added.
func TestTrialOnNIC(t *testing.T) {
	failed := func(errno, words string) string { // since 6.2 in the driver's words
		return "refused " + errno + ": " + forKernel(t, words, "Device failed to offload this state")
	}
	// Before packet offload was there the kernel refuses it itself, without the driver.
	packet := func(want map[string]int) map[string]int {
		if unknown := "Unrecognized flags in offload request"; forKernel(t, "", unknown) == unknown {
			return all("refused EINVAL: " + unknown)
		}
		return want
	}
	const (
		noPacket = "refused EINVAL: labnic: Packet offload is not supported"
		noESN    = "The engine does no ESN"
		noKey    = "The AEAD key must have 128 or 256 bits"
	)
	// With each key half of the cases are with ESN, but of the windows, where 0 is not.
	byESN := func(off, on string) map[string]int {
		return map[string]int{"256 " + off: 14, "256 " + on: 13, "128 " + off: 8, "128 " + on: 8, "192 " + off: 8, "192 " + on: 8}
	}
	byKey := func(others, aes192 string) map[string]int {
		return map[string]int{"256 " + others: 27, "128 " + others: 16, "192 " + aes192: 16}
	}
	for _, tt := range []struct {
		name           string
		parameters     map[string]string
		crypto, packet map[string]int
		ready          probe.Readiness
	}{
		{"as strict as a ConnectX", nil,
			byKey("offloaded", failed("EINVAL", "labnic: "+noKey)), byKey(noPacket, "refused EINVAL: labnic: "+noKey), probe.Ready},
		{"lenient", map[string]string{"strict": "0"},
			all("offloaded"), all(noPacket), probe.Ready},
		{"without ESN", map[string]string{"strict": "0", "esn": "0"},
			byESN("offloaded", failed("EINVAL", "labnic: "+noESN)), byESN(noPacket, "refused EINVAL: labnic: "+noESN), probe.Ready},
		{"EOPNOTSUPP", map[string]string{"fault": "eopnotsupp"},
			all("software"), all("refused EOPNOTSUPP: Device failed to offload this state"), probe.NotReady},
		{"EINVAL", map[string]string{"fault": "einval"},
			all(failed("EINVAL", "labnic: Refused by the fault einval")), all("refused EINVAL: labnic: Refused by the fault einval"), probe.NotReady},
		{"EINVAL without words", map[string]string{"fault": "mute"},
			all("refused EINVAL: Device failed to offload this state"), all("refused EINVAL: Device failed to offload this state"), probe.NotReady},
		{"its table is full", map[string]string{"max_sas": "0", "strict": "0"},
			all(failed("ENOSPC", "labnic: No space in the SA table")), all(noPacket), probe.NotReady},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newNICLab(t, "p4p1")
			l.program(t, lab.Pair{}) // which is not to be touched
			for name, value := range tt.parameters {
				setParameter(t, name, value)
			}
			r := tryNIC(t, l.A)
			wantAnswers(t, r, trial.Crypto, tt.crypto)
			wantAnswers(t, r, trial.Packet, packet(tt.packet))
			if got := readiness(r); got != tt.ready {
				t.Errorf("%s, want %s", got, tt.ready)
			}
			var text strings.Builder
			r.WriteText(&text)
			t.Logf("\n%s", text.String())
		})
	}
}

func wantAnswers(t *testing.T, r *trial.Result, offload string, want map[string]int) {
	t.Helper()
	if got := answers(r, offload); fmt.Sprint(got) != fmt.Sprint(want) { // maps print in order
		t.Errorf("%s offload:\n%v, want\n%v", offload, got, want)
	}
}

// On a device without offload the kernel accepts what it does not do.
func TestTrialOnVeth(t *testing.T) {
	r := tryNIC(t, lab.New(t, "p4p1").A)
	wantAnswers(t, r, trial.Crypto, all("software"))
	wantAnswers(t, r, trial.Packet, all("refused EINVAL: "+forKernel(t, "", "Unrecognized flags in offload request")))
	if got := readiness(r); got != probe.NotReady {
		t.Errorf("%s", got)
	}
}

// A simulation offloads nothing, whatever it takes.
func TestTrialOnNetdevsim(t *testing.T) {
	h := lab.NewHost(t, "A", "p4p1")
	nic := newNetdevsim(t, h)
	r := tryNIC(t, h)
	esn := "refused EINVAL: Device doesn't support offload with ESN"
	wantAnswers(t, r, trial.Crypto, map[string]int{
		"256 offloaded": 14, "256 " + esn: 13, "128 offloaded": 8, "128 " + esn: 8, "192 offloaded": 8, "192 " + esn: 8,
	})
	if got := readiness(r); got != probe.Unclear {
		t.Errorf("%s", got)
	}
	if sas, _ := nic.read(t); len(sas) != 0 {
		t.Errorf("the driver keeps %+v", sas)
	}
}

// What is read back decides, whatever the other layers say.
func TestTrialDecides(t *testing.T) {
	for _, tt := range []struct {
		fault, readiness, reason string
		code                     int
	}{
		{"none", "READY", "", 0},
		{"eopnotsupp", "NOT READY", "SAs are accepted, and left to software", 3},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			l := newNICLab(t, "p4p1")
			setParameter(t, "fault", tt.fault)
			r := l.A.Command(Espalier, "doctor", "p4p1", "--trial", "--yes", "-o", "json")
			var view struct {
				Devices []struct{ Readiness, Reason string }
				Trials  []trial.Result
			}
			if err := json.Unmarshal([]byte(r.Stdout), &view); err != nil || len(view.Devices) != 1 || len(view.Trials) != 1 {
				t.Fatalf("exit %d, %v: %s%s", r.Code, err, r.Stdout, r.Stderr)
			}
			if d := view.Devices[0]; r.Code != tt.code || d.Readiness != tt.readiness || d.Reason != tt.reason {
				t.Errorf("exit %d, %+v", r.Code, d)
			}
			if got := view.Trials[0]; len(got.Cases) != len(trial.Plan()) || got.Driver != "labnic" || got.Device != "p4p1" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Ctrl-C in the middle of a trial: nothing is left.
func TestTrialInterrupted(t *testing.T) {
	h := newNICLab(t, "p4p1").A
	if code := endTrial(t, h, os.Interrupt); code != 130 {
		t.Errorf("exit %d", code)
	}
	if left := spis(t, h); len(left) != 0 {
		t.Errorf("SAs %v are left", left)
	}
	if _, err := os.Stat(filepath.Join(h.Dir, "state", "trial.json")); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
}

// A trial that is killed while an SA of it is there: the next one deletes that, and nothing that
// looks like it.
func TestTrialKilled(t *testing.T) {
	l := newNICLab(t, "p4p1")
	h := l.A
	journal := filepath.Join(h.Dir, "state", "trial.json")
	var ours ipsec.SPI
	for try := 0; ours == 0; try++ {
		if try == 50 {
			t.Fatal("no trial was killed while an SA was there")
		}
		endTrial(t, h, os.Kill)
		ours = keepLeftover(t, l)
	}
	var recorded struct{ SAs []struct{ SPI ipsec.SPI } }
	if err := json.Unmarshal([]byte(read(t, journal)), &recorded); err != nil {
		t.Fatal(err)
	}
	// Between the same addresses: on another SPI, and on one that is recorded.
	foreign := []ipsec.SPI{0xe0000000, recorded.SAs[0].SPI}
	if foreign[1] == ours {
		foreign[1] = recorded.SAs[4].SPI
	}
	for _, spi := range foreign {
		l.apply(t, h, fmt.Sprintf("state add src 192.0.2.1 dst 198.51.100.1 proto esp spi %d reqid 7 mode transport %s128", spi, aead))
	}
	r := h.Command(Espalier, "doctor", h.Device, "--trial", "--yes")
	if want := "1 SA of a trial that was killed has been deleted"; !strings.Contains(r.Stderr, want) {
		t.Errorf("exit %d: %s; want %q", r.Code, r.Stderr, want)
	}
	slices.Sort(foreign)
	if got := spis(t, h); !slices.Equal(got, foreign) {
		t.Errorf("SAs %v are left, want %v", got, foreign)
	}
	if _, err := os.Stat(journal); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
	if !strings.Contains(r.Stdout, "offloaded") {
		t.Errorf("%s", r.Stdout)
	}
}

// keepLeftover has the SA that a trial has left, if there is one, stay: it would expire by itself.
func keepLeftover(t *testing.T, l *nicLab) (spi ipsec.SPI) {
	t.Helper()
	c := l.kernel[l.A]
	var found []*xfrm.State
	for s, err := range c.States(t.Context(), xfrm.StateFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, s)
	}
	if len(found) == 0 {
		return 0
	}
	s := found[0]
	if len(found) > 1 || s.Limits.HardAdd == 0 {
		t.Fatalf("%d SAs were there at a time; %+v", len(found), s)
	}
	c.DeleteState(t.Context(), s.ID()) // or it has just expired
	again := &xfrm.State{Src: s.Src, Dst: s.Dst, Proto: s.Proto, SPI: s.SPI, Reqid: s.Reqid, Mode: s.Mode, AEAD: s.AEAD, Limits: xfrm.NoLimits}
	if err := c.AddState(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	return s.SPI
}

// endTrial starts a trial, and sends it a signal when it has added some SAs.
func endTrial(t *testing.T, h *lab.Host, signal os.Signal) (code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	events := kernelOf(t, h).Listen(ctx, xfrm.GroupSA)
	cmd := exec.Command(Espalier, "doctor", h.Device, "--trial", "--yes")
	cmd.Env = append(os.Environ(), "ESPALIER_STATE_DIR="+filepath.Join(h.Dir, "state"))
	var said strings.Builder
	cmd.Stderr = &said
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	const add = 21 // SAs come and go in turn: this one comes
	n := 0
	for _, err := range events {
		if n++; err != nil || n == add {
			break
		}
	}
	cmd.Process.Signal(signal)
	cmd.Wait()
	if n < add {
		t.Fatalf("only %d SAs came and went: %s", n, said.String())
	}
	return cmd.ProcessState.ExitCode()
}
