package cli

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"espalier/probe"
	"espalier/xfrm"
)

// readBack tells what became of an SA that was to be offloaded: that it was accepted says
// nothing. With --require-offload one that was not is taken out again.
func (r *xfrmRun) readBack(ctx context.Context, j job) error {
	id := j.State.ID()
	back, err := r.engine.GetState(ctx, id)
	if err != nil {
		return fmt.Errorf("the SA is in, but could not be read back to see if it is offloaded: %w", err)
	}
	granted, text := r.offloadVerdict(j, back)
	fmt.Fprintf(r.stderr, "%s%s\n", r.place(j), text)
	if !granted && r.requireOffload {
		if err := r.engine.DeleteState(ctx, id); err != nil {
			return &exitError{exitXfrmUnmet, fmt.Errorf("--require-offload is unmet, and the SA could not be taken out again: %w", err)}
		}
		return &exitError{exitXfrmUnmet, errors.New("--require-offload is unmet: the SA has been taken out again")}
	}
	return r.showInstalled(j, granted, back, text)
}

// offloadVerdict says what the read-back says, no more: whether packets really pass the
// NIC is seen only in its counters.
func (r *xfrmRun) offloadVerdict(j job, back *xfrm.State) (granted bool, text string) {
	asked, got := j.State.Offload, back.Offload
	switch {
	case got == nil && r.sad.socket != "":
		return false, fmt.Sprintf("NOT offloaded: the userspace device took the SA without %s", j.Device)
	case got == nil:
		return false, fmt.Sprintf("NOT offloaded: %s; the kernel will encrypt in software", r.whyNot(j.Device))
	case got.Ifindex != asked.Ifindex:
		return false, fmt.Sprintf("NOT offloaded to %s: the SA is with %s", j.Device, r.deviceName(int(got.Ifindex)))
	case asked.Flags&xfrm.OffloadPacket != got.Flags&xfrm.OffloadPacket:
		return false, fmt.Sprintf("NOT offloaded as asked: %s took the SA in %s mode", j.Device, offloadMode(got))
	case r.sad.socket != "":
		return true, fmt.Sprintf("offloaded to %s (%s, emulated by a userspace device)", j.Device, offloadMode(got))
	}
	return true, fmt.Sprintf("offloaded to %s (%s)", j.Device, offloadMode(got))
}

// whyNot is the likely reason for which a kernel has kept an SA to itself.
func (r *xfrmRun) whyNot(device string) string {
	nic, err := r.askNIC(device)
	switch {
	case err != nil:
		return fmt.Sprintf("%s was not asked (%v)", device, err)
	case !nic.ESPOffload.Known || !nic.ESPOffload.On:
		return fmt.Sprintf("%s has no ESP offload (esp-hw-offload %s)", device, nic.ESPOffload)
	}
	return fmt.Sprintf("%s has ESP offload (esp-hw-offload %s), but its driver %s does not take this SA", device, nic.ESPOffload, nic.Driver)
}

// askNIC asks a device, once.
func (r *xfrmRun) askNIC(device string) (probe.NIC, error) {
	if nic, ok := r.nics[device]; ok {
		return nic, nil
	}
	nic, err := probe.AskNIC(device)
	if err == nil {
		if r.nics == nil {
			r.nics = make(map[string]probe.NIC)
		}
		r.nics[device] = nic
	}
	return nic, err
}

func offloadMode(o *xfrm.Offload) string {
	if o.Flags&xfrm.OffloadPacket != 0 {
		return "packet"
	}
	return "crypto"
}

// kernelRelease is that of the running kernel, zero if it cannot be told.
func kernelRelease() xfrm.Release {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return xfrm.Release{}
	}
	release, _ := xfrm.ParseRelease(unix.ByteSliceToString(u.Release[:]))
	return release
}
