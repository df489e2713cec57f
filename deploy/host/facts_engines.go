package host

import (
	"context"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/probe"
	"espalier/tunnel"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// maxWindow of the kernel's (XFRMA_REPLAY_ESN_MAX) and of the device's, in packets.
const maxWindow = 4096

// gatherEngines asks the kernel and the devices that run.
func gatherEngines(ctx context.Context, sad string, devices []tunnel.Device, abilities *probe.Abilities) ([]tunnel.Engine, error) {
	var engines []tunnel.Engine
	path, one := strings.CutPrefix(sad, "unix:")
	if !one {
		kernel, err := gatherKernel(ctx, abilities)
		if err != nil {
			return nil, err
		}
		engines = append(engines, kernel)
	}
	sockets := map[string]string{}
	switch {
	case one:
		sockets[deviceOf(path, devices)] = path
	case sad == "" || sad == "auto":
		dir, err := client.SocketDir()
		if err != nil {
			return nil, err
		}
		if sockets, err = client.DeviceSockets(dir); err != nil {
			return nil, err
		}
	}
	for _, device := range slices.Sorted(maps.Keys(sockets)) {
		e, err := gatherDevice(ctx, device, sockets[device])
		if err != nil {
			return nil, err
		}
		engines = append(engines, e)
	}
	return engines, nil
}

func gatherKernel(ctx context.Context, abilities *probe.Abilities) (tunnel.Engine, error) {
	e := tunnel.Engine{
		Name: "kernel", ESP: answer(abilities.ESP4), ESP6: answer(abilities.ESP6), ESN: yes, UDP: yes,
		Direction: answer(abilities.Direction), PCPU: answer(abilities.PCPU), MaxWindow: maxWindow, Lanes: abilities.CPUs,
	}
	c, err := client.Kernel()
	if err != nil {
		if e.ESP.Can != tunnel.No { // otherwise that says it all
			e.ESP = tunnel.Answer{Can: tunnel.No, Why: err.Error()}
		}
		return e, nil
	}
	defer c.Close()
	return e, list(ctx, c, &e)
}

var yes = tunnel.Answer{Can: tunnel.Yes}

// gatherDevice asks a userspace device. One that has ended says so.
func gatherDevice(ctx context.Context, device, path string) (tunnel.Engine, error) {
	e := tunnel.Engine{
		Name: "unix:" + path, Device: device, ESP: yes, ESP6: yes, ESN: yes, UDP: yes, Direction: yes, PCPU: yes, MaxWindow: maxWindow,
	}
	_, e.Lanes = tunOf(path)
	c, err := client.Dial(path)
	if err != nil {
		e.ESP = tunnel.Answer{Can: tunnel.No, Why: err.Error()}
		e.ESP6 = e.ESP
		return e, nil
	}
	defer c.Close()
	return e, list(ctx, c, &e)
}

// list reads the SAs and policies of an engine. Keys are wiped as they come.
func list(ctx context.Context, c *client.Client, e *tunnel.Engine) error {
	for s, err := range c.States(ctx, xfrm.StateFilter{Proto: unix.IPPROTO_ESP}) {
		if err != nil {
			return err
		}
		e.SAs = append(e.SAs, liveSA(s))
		wipe(s)
	}
	for p, err := range c.Policies(ctx) {
		if err != nil {
			return err
		}
		if p.Dir > xfrm.PolicyFwd {
			continue // of a single socket
		}
		e.Policies = append(e.Policies, livePolicy(p))
	}
	return nil
}

func wipe(s *xfrm.State) {
	for _, a := range []*xfrm.Algorithm{s.Crypt, s.Auth} {
		if a != nil {
			a.Key.Wipe()
		}
	}
	if s.AuthTrunc != nil {
		s.AuthTrunc.Key.Wipe()
	}
	if s.AEAD != nil {
		s.AEAD.Key.Wipe()
	}
}

// liveSA leaves the key out, and says of what the planner has no words for only that it is there.
func liveSA(s *xfrm.State) tunnel.LiveSA {
	live := tunnel.LiveSA{Larval: s.IsLarval(), RequestID: s.Reqid, IfID: s.IfID, CPU: s.PCPU}
	live.Dst, live.SPI, live.Src = s.Dst, s.SPI, s.Src
	if s.Mark != nil {
		live.Mark.Value, live.Mark.Mask = s.Mark.Value, s.Mark.Mask
	}
	sa, err := steps.SAOf(s)
	if err != nil {
		live.Other = true
		return live
	}
	live.Mode, live.Direction, live.ICVBits, live.ESN, live.Window = sa.Mode, sa.Direction, uint32(sa.ICVBits), sa.ESN, sa.Window
	live.Encap, live.Selector, live.Offload, live.Limits = sa.Encap, sa.Selector, sa.Offload, sa.Limits
	live.OutputMark, live.Sent, live.Added = sa.OutputMark, sa.Counters.Sent, sa.Counters.Added
	if s.AEAD != nil && s.AEAD.KeyBits >= saltBits {
		live.KeyBits = s.AEAD.KeyBits - saltBits
	}
	return live
}

// saltBits behind an AES-GCM key (RFC 4106 §8.1).
const saltBits = 32

func livePolicy(p *xfrm.Policy) tunnel.LivePolicy {
	policy, err := steps.PolicyOf(p)
	if err == nil {
		return tunnel.LivePolicy{Policy: policy}
	}
	live := tunnel.LivePolicy{Other: true}
	live.Selector, live.Priority, live.IfID = p.Sel.Selector, p.Priority, p.IfID
	live.Direction = [...]ipsec.Direction{ipsec.Inbound, ipsec.Outbound, ipsec.Forward}[p.Dir]
	if p.Mark != nil {
		live.Mark.Value, live.Mark.Mask = p.Mark.Value, p.Mark.Mask
	}
	return live
}

// deviceOf is the network device behind a socket that may be anywhere: the one whose TUN it has, else
// by the name of the socket.
func deviceOf(path string, devices []tunnel.Device) string {
	tun, _ := tunOf(path)
	for i := range devices {
		if tun != "" && tun == tunName(devices[i].Name) {
			return devices[i].Name
		}
	}
	return strings.TrimSuffix(filepath.Base(path), client.SocketSuffix)
}

// tunName is the default name of the TUN behind a device: cut to what the kernel takes.
func tunName(underlay string) string {
	const most = unix.IFNAMSIZ - 1
	name := "esp-" + underlay
	return name[:min(len(name), most)]
}

// tunOf finds the TUN device of whoever listens on a socket, and how many queues of it are open: the
// kernel names it in the fdinfo of each (drivers/net/tun.c). Nothing is known where the process is in
// another PID namespace.
func tunOf(path string) (name string, queues int) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return "", 0
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return "", 0
	}
	pid := int32(0)
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = cred.Pid
		}
	})
	dir := filepath.Join("/proc", strconv.Itoa(int(pid)), "fdinfo")
	files, _ := os.ReadDir(dir) // none of pid 0
	for _, f := range files {
		text, _ := os.ReadFile(filepath.Join(dir, f.Name()))
		for line := range strings.Lines(string(text)) {
			if of, ok := strings.CutPrefix(line, "iff:\t"); ok {
				name = strings.TrimSpace(of)
				queues++
			}
		}
	}
	return name, queues
}
