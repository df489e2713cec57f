package cli

import (
	"context"
	"net"
	"testing"
	"time"

	"espalier/probe/trial"
	"espalier/test/lab"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// TestTrialOnDevice makes a trial on the userspace device, which answers as a kernel does: crypto
// offload to its own underlay is granted, packet offload refused, and nothing is left.
func TestTrialOnDevice(t *testing.T) {
	t.Parallel()
	h := lab.New(t, "").A
	h.StartDevice()
	c, err := client.Dial(h.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := trial.Options{Device: h.Device, StateDir: t.TempDir(), Scope: h.Socket}
	err = h.Do(func() error {
		dev, err := net.InterfaceByName(h.Device)
		o.Ifindex = dev.Index
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := trial.Run(ctx, c, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, tried := range r.Cases {
		want := map[string]trial.Outcome{trial.Crypto: trial.Offloaded, trial.Packet: trial.Refused}[tried.Offload]
		if tried.Outcome != want || (want == trial.Refused) != (tried.Message != "") {
			t.Errorf("%+v, want %s", tried, want)
		}
	}
	for s, err := range c.States(ctx, xfrm.StateFilter{}) {
		t.Errorf("an SA is left: %v, %v", s, err)
	}
}
