package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

const (
	ends    = "src 192.168.1.64 dst 192.168.1.65 proto esp "
	key256  = "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
	key192  = "0x000102030405060708090a0b0c0d0e0f101112131415161720212223"
	state   = "state add " + ends + "spi 0x1000 reqid 1 mode transport "
	aead    = "aead rfc4106(gcm(aes)) " + key256 + " "
	tunnel  = "state add " + ends + "spi 0x1000 reqid 1 mode tunnel "
	offload = " offload dev p4p1 dir out"
)

const (
	software = "accepted, in software"
	einval   = "refused: invalid argument"
)

// What the kernel makes of requests that a NIC would be needed for, or that do not go
// together. The outcome is read back: that a request was accepted says nothing.
func TestRefusals(t *testing.T) {
	const (
		unrecognized = einval + ": Unrecognized flags in offload request"
		neither      = einval + ": Encapsulation and TFC padding can't be offloaded"
	)
	tests := []struct {
		name   string
		words  string
		change func(*xfrm.State)
		want   string // from 6.12 on
		old    string // on 6.1, where it differs
	}{
		{name: "no offload asked for", words: state + aead + "128", want: software},
		{name: "crypto offload to a device that has none", words: state + aead + "128" + offload, want: software},
		{name: "packet offload to a device that has none", words: state + aead + "128 offload packet dev p4p1 dir out", want: einval, old: unrecognized},
		{name: "crypto offload to a device that does not exist", words: state + aead + "128" + offload, change: elsewhere, want: software},
		{name: "packet offload to a device that does not exist", words: state + aead + "128 offload packet dev p4p1 dir out", change: elsewhere, want: einval, old: unrecognized},
		{name: "unknown offload flag", words: state + aead + "128" + offload, change: func(s *xfrm.State) { s.Offload.Flags |= 0x40 }, want: unrecognized},
		{name: "direction of SA and offload differ", words: state + aead + "128" + offload, change: func(s *xfrm.State) { s.Dir = xfrm.StateDirIn }, want: einval + ": Mismatched SA and offload direction", old: software},
		{name: "TFC padding in transport mode", words: state + aead + "128 tfcpad 100", want: einval + ": TFC padding can only be used in tunnel mode"},
		{name: "TFC padding with crypto offload", words: tunnel + aead + "128 tfcpad 100" + offload, want: einval + ": TFC padding can't be offloaded", old: neither},
		{name: "UDP encapsulation with crypto offload", words: state + aead + "128 encap espinudp 4500 4500 0.0.0.0" + offload, want: software, old: neither},
		{name: "ESN with crypto offload", words: state + "flag esn replay-window 64 " + aead + "128" + offload, want: software},
		{name: "ESN on an outbound SA, without a replay window", words: state + "flag esn " + aead + "128 dir out", want: software, old: einval + ": ESN replay window must be > 0"},
		{name: "replay window on an outbound SA", words: state + "replay-window 32 " + aead + "128 dir out", want: einval + ": Replay window should be 0 for output SA", old: software},
		{name: "ICV of 64 bits", words: state + aead + "64", want: software},
		{name: "ICV of 96 bits", words: state + aead + "96", want: software},
		{name: "ICV of 112 bits", words: state + aead + "112", want: "refused: function not implemented: Requested AEAD algorithm not found"},
		{name: "AES-192", words: state + "aead rfc4106(gcm(aes)) " + key192 + " 128", want: software},
		{name: "for one CPU", words: state + aead + "128 dir out pcpu-num 0", want: software + ", for CPU 0", old: software},
		{name: "for one CPU, without a direction", words: state + aead + "128 pcpu-num 0", want: einval + ": SA_PCPU only supported with SA_DIR", old: software},
		{name: "for a CPU that is not there", words: state + aead + "128 dir out pcpu-num 65536", want: "refused: numerical result out of range: pCPU number too big", old: software},
	}
	l := lab.New(t, "p4p1")
	c := kernelOf(t, l.A)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := parse(t, l.A, tt.words).State
			if tt.change != nil {
				tt.change(s)
			}
			got := outcome(t, c, s)
			Tell("State add, on a device without offload", tt.name, got)
			if want := forKernel(t, tt.want, tt.old); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

func elsewhere(s *xfrm.State) { s.Offload.Ifindex = 999 }

// forKernel gives what is wanted of this kernel.
func forKernel(t *testing.T, want, old string) string {
	t.Helper()
	if old != "" && strings.HasPrefix(read(t, "/proc/sys/kernel/osrelease"), "6.1.") {
		return old
	}
	return want
}

func parse(t *testing.T, h *lab.Host, words string) *xfrm.Command {
	t.Helper()
	cmd, err := xfrm.Parse(strings.Fields(words), xfrm.Env{Interface: func(name string) (index int, err error) {
		err = h.Do(func() error {
			dev, err := net.InterfaceByName(name)
			if err == nil {
				index = dev.Index
			}
			return err
		})
		return index, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	return cmd
}

// outcome adds a state and tells what came of it: the refusal, or who encrypts. It takes the
// state out again.
func outcome(t *testing.T, c *client.Client, s *xfrm.State) string {
	t.Helper()
	if err := c.AddState(context.Background(), s); err != nil {
		return refusal(t, err)
	}
	return whoEncrypts(t, c, s.ID())
}

// whoEncrypts reads a state back and takes it out.
func whoEncrypts(t *testing.T, c *client.Client, id xfrm.StateID) string {
	t.Helper()
	ctx := context.Background()
	got, err := c.GetState(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteState(ctx, id); err != nil {
		t.Fatal(err)
	}
	tied := ""
	if got.PCPU != nil {
		tied = fmt.Sprintf(", for CPU %d", *got.PCPU)
	}
	if got.Offload == nil {
		return software + tied
	}
	return fmt.Sprintf("accepted, offload flags %#x%s", got.Offload.Flags, tied)
}

// refusal is what the kernel says, without the hint of ours.
func refusal(t *testing.T, err error) string {
	t.Helper()
	var e *client.Error
	if !errors.As(err, &e) {
		t.Fatalf("not the kernel's word: %v", err)
	}
	if e.Message == "" {
		return "refused: " + e.Errno.Error()
	}
	return fmt.Sprintf("refused: %s: %s", e.Errno.Error(), e.Message)
}

// A second add of the same SA is refused; an update is accepted and does not change the key.
func TestSameSAAgain(t *testing.T) {
	const section = "The same SA again"
	l := lab.New(t, "p4p1")
	c := kernelOf(t, l.A)
	ctx := context.Background()
	s := parse(t, l.A, state+aead+"128").State
	if err := c.AddState(ctx, s); err != nil {
		t.Fatal(err)
	}
	err := c.AddState(ctx, parse(t, l.A, state+aead+"128").State)
	if !errors.Is(err, unix.EEXIST) {
		t.Fatalf("second add: %v, want EEXIST", err)
	}
	Tell(section, "state add", refusal(t, err))

	other := parse(t, l.A, strings.Replace(state, " add ", " update ", 1)+strings.Replace(aead, "0x0001", "0xffff", 1)+"128").State
	if err := c.UpdateState(ctx, other); err != nil {
		t.Fatalf("update: %v", err)
	}
	got := l.A.Must("ip", "xfrm", "state", "list")
	if !strings.Contains(got, key256) {
		t.Errorf("after an update with another key:\n%s", got)
	}
	Tell(section, "state update with another key", "accepted, the key stays")
}

// A packet-offloaded policy on a device that does no such thing.
func TestPolicyOffload(t *testing.T) {
	l := lab.New(t, "p4p1")
	c := kernelOf(t, l.A)
	ctx := context.Background()
	p := parse(t, l.A, "policy add src 192.168.1.64 dst 192.168.1.65 dir out offload packet dev p4p1 tmpl "+ends+"mode transport").Policy
	got := software
	if err := c.AddPolicy(ctx, p); err != nil {
		got = refusal(t, err)
	} else if back, err := c.GetPolicy(ctx, p.ID()); err != nil || back.Offload != nil {
		t.Fatalf("read back: %+v, %v", back, err)
	}
	Tell("Policy add, on a device without offload", "packet offload", got)
	if want := forKernel(t, einval+": Policy offload is not supported", software); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// SAs in software outlive their device's link.
func TestLinkDown(t *testing.T) {
	l := lab.New(t, "p4p1")
	c := kernelOf(t, l.A)
	ctx := context.Background()
	s := parse(t, l.A, state+aead+"128"+offload).State
	if err := c.AddState(ctx, s); err != nil {
		t.Fatal(err)
	}
	l.A.Must("ip", "link", "set", "p4p1", "down")
	if _, err := c.GetState(ctx, s.ID()); err != nil {
		t.Errorf("after the link went down: %v", err)
	}
	Tell("Link down", "SA in software", "stays")
}
