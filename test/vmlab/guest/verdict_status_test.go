package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"espalier/lint"
	"espalier/test/lab"
	"espalier/verdict/observe"
)

// statusView is what the scenarios look at of what `espalier status` says.
type statusView struct {
	Schema   string
	Pairs    []struct{ Out, In *statusSA }
	Findings []lint.Finding
}

type statusSA struct {
	SPI, Verdict, Reason, Why string
	Unchecked                 []string
}

// of is what is said of one SA, nil if nothing.
func (v *statusView) of(spi uint32) *statusSA {
	name := fmt.Sprintf("0x%08x", spi)
	for _, p := range v.Pairs {
		for _, sa := range []*statusSA{p.Out, p.In} {
			if sa != nil && sa.SPI == name {
				return sa
			}
		}
	}
	return nil
}

// finds reports whether there is a finding of a kind.
func (v *statusView) finds(id string) bool {
	return slices.ContainsFunc(v.Findings, func(f lint.Finding) bool { return string(f.ID) == id })
}

// observer is status at work on a host, but for its output: these tests are built with the tag labnic,
// and so trust the lab's NIC as they would trust hardware.
func observer(t *testing.T, h *lab.Host, sad observe.SAD, userspace, probe bool) (o *observe.Observer) {
	t.Helper()
	inside(t, h, func() (err error) {
		o, err = observe.Open(sad, userspace)
		return err
	})
	t.Cleanup(o.Close)
	if probe {
		if err := o.CountCPU(); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// during has it look while something happens: no more and no less, however slow the machine.
func during(t *testing.T, o *observe.Observer, do func()) (v statusView) {
	t.Helper()
	seen, err := o.During(context.Background(), func(context.Context) error { do(); return nil })
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range seen.States {
		j := seen.Judgements[i]
		v.Pairs = append(v.Pairs, struct{ Out, In *statusSA }{
			Out: &statusSA{s.SPI.String(), string(j.Verdict), string(j.Reason), j.Why, j.Unchecked},
		})
	}
	v.Findings = seen.Findings
	return v
}

// released asks the program that is delivered, while the hosts send by the clock. On a busy machine it
// has to look for longer, as it says.
func released(t *testing.T, h *lab.Host, send func()) (v statusView) {
	t.Helper()
	for interval := 500 * time.Millisecond; ; interval *= 2 {
		cmd := exec.Command(Espalier, "status", "--sad", "kernel", "-o", "json", "--interval", interval.String())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = h.Start(cmd)
		}
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			v = statusView{}
			done <- json.NewDecoder(out).Decode(&v)
		}()
		for waiting := true; waiting; {
			select {
			case err = <-done:
				waiting = false
			default:
				send()
			}
		}
		if exit := cmd.Wait(); exit != nil || err != nil || v.Schema != "espalier/status/v1" {
			t.Fatalf("status: %v, %v: %+v", exit, err, v)
		}
		if sa := v.of(pair4.SPI); sa == nil || sa.Reason != "coarse" || interval > 4*untilThere {
			return v
		}
	}
}
