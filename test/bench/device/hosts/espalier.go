package hosts

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"espalier/test/lab"
)

// Build builds a program of this repository into dir and returns its path.
func Build(ctx context.Context, dir, pkg string) (string, error) {
	path := filepath.Join(dir, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// StartDevice runs the userspace device on the host, by the program espalier.
func (h *Host) StartDevice(ctx context.Context, espalier string) (*Process, error) {
	return h.StartDeviceAt(ctx, espalier, filepath.Join(h.Dir, Device+".sock"))
}

// StartDeviceAt is the same, with the device's socket at a path.
func (h *Host) StartDeviceAt(ctx context.Context, espalier, socket string) (*Process, error) {
	h.program, h.socket = espalier, socket
	d, err := h.Launch(ctx, "ready unix:", espalier, "dataplane", "--dev", Device, "--listen", h.socket)
	h.device = d
	return d, err
}

// release takes the policies from the host's device, if it has one: with policies it would leave behind
// what guards them.
func (h *Host) release() {
	if h.device == nil || h.device.Alive() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h.Run(ctx, "", h.program, "xfrm", "--sad", "unix:"+h.socket, "policy", "flush")
}

// Batch programs the host's device with the commands of a script.
func (h *Host) Batch(ctx context.Context, script string) error {
	_, err := h.Run(ctx, script, h.program, "xfrm", "--sad", "unix:"+h.socket, "-batch", "-")
	return err
}

// Drops are the packets that the host's device has dropped so far, by reason; all reasons.
func (h *Host) Drops(ctx context.Context) (map[string]uint64, error) {
	out, err := h.Run(ctx, "", h.program, "xfrm", "--sad", "unix:"+h.socket, "-o", "json", "drops")
	if err != nil {
		return nil, err
	}
	drops, err := parseDrops(out)
	if err != nil {
		err = fmt.Errorf("host %s: drops: %w", h.Name, err)
	}
	return drops, err
}

func parseDrops(out string) (map[string]uint64, error) {
	var view struct {
		Drops []struct {
			Reason  string
			Packets uint64
		}
	}
	if err := json.Unmarshal([]byte(out), &view); err != nil {
		return nil, err
	}
	if len(view.Drops) == 0 {
		return nil, fmt.Errorf("no reasons in %q", out)
	}
	drops := make(map[string]uint64)
	for _, d := range view.Drops {
		drops[d.Reason] = d.Packets
	}
	return drops, nil
}

// StartDevices runs the userspace device on both hosts, A's first.
func (p *Pair) StartDevices(ctx context.Context, espalier string) (devices []*Process, err error) {
	for _, h := range p.Hosts() {
		d, err := h.StartDevice(ctx, espalier)
		if err != nil {
			return nil, err
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// Program gives both devices SAs and policies.
func (p *Pair) Program(ctx context.Context, sas lab.Pair) error {
	for _, h := range p.Hosts() {
		if err := h.Batch(ctx, p.words.States(h.script, sas)); err != nil {
			return err
		}
	}
	return p.ProgramPolicies(ctx, sas)
}

// ProgramPolicies gives both devices the policies for the SAs. Neighbour discovery is spared: it
// has to work before any SA can.
func (p *Pair) ProgramPolicies(ctx context.Context, sas lab.Pair) error {
	script := ""
	for _, icmp := range []int{135, 136} {
		for _, dir := range []string{"in", "out"} {
			script += fmt.Sprintf("ip xfrm policy add src ::/0 dst ::/0 proto ipv6-icmp type %d dir %s priority 1\n", icmp, dir)
		}
	}
	for _, h := range p.Hosts() {
		if err := h.Batch(ctx, script+p.words.Policies(h.script, sas)); err != nil {
			return err
		}
	}
	return nil
}
