package config

import "slices"

// impossible checks what cannot be had together.
func (c *checker) impossible(t *Tunnel) {
	for _, rule := range impossible {
		if rule.when(t) {
			c.problem(t.place, rule.setting, rule.what, rule.instead)
		}
	}
}

// impossible are the combinations of settings that nobody can do, wherever the hosts are. What
// depends on a NIC or a kernel is not among them, save for what no ConnectX does (docs/compatibility.md,
// drivers/net/ethernet/mellanox/mlx5/core/en_accel/ipsec.c).
var impossible = []struct {
	when          func(t *Tunnel) bool
	setting       string // whose place is told
	what, instead string
}{
	{
		func(t *Tunnel) bool { return t.Engine == Userspace && t.Offload == PacketOffload },
		"offload", "packet offload is the kernel's, and engine is userspace", "write engine: kernel, or offload: auto",
	},
	{
		func(t *Tunnel) bool { return t.Engine == Userspace && t.Offload == RequireOffload },
		"offload", "with engine userspace no NIC encrypts, and offload requires one", "write engine: kernel, or offload: auto",
	},
	{
		func(t *Tunnel) bool {
			return t.Engine == Userspace && (t.Mark != Mark{} || t.OutputMark != Mark{} || t.IfID != 0)
		},
		"engine", "the userspace engine knows neither marks nor if_id", "write engine: kernel, or leave them out",
	},
	{
		func(t *Tunnel) bool { return t.Encap.Type == UDPEncap && t.Offload == CryptoOffload },
		"offload", "no NIC does crypto offload of ESP in UDP", "write offload: packet in transport mode, or encap: none",
	},
	{
		func(t *Tunnel) bool {
			return t.Encap.Type == UDPEncap && t.Mode == TunnelMode && (t.Offload == PacketOffload || t.Offload == RequireOffload)
		},
		"offload", "no NIC offloads ESP in UDP in tunnel mode", "write offload: auto, encap: none, or mode: transport",
	},
	{
		func(t *Tunnel) bool { return t.Encap.Type == NoEncap && t.Encap.Port != 0 },
		"encap.port", "a port without UDP", "write encap: udp, or leave it out",
	},
	{
		func(t *Tunnel) bool {
			return t.Offload == PacketOffload && slices.ContainsFunc(slices.Concat(t.Selectors, t.Bypass), func(s Traffic) bool { return !slices.Contains([]Protocol{0, 6, 17}, s.Protocol) })
		},
		"offload", "with packet offload the NIC selects, and knows only tcp, udp and any", "write offload: crypto, or other selectors and bypass",
	},
	{
		func(t *Tunnel) bool {
			return t.Offload == PacketOffload && !slices.Contains([]Window{0, 32, 64, 128, 256}, t.Window)
		},
		"window", "packet offload has windows of 32, 64, 128 or 256 packets", "write one of them, or auto",
	},
	{
		func(t *Tunnel) bool { return t.Rotate.Every == Never && t.Rotate.AtMostShare != 0 },
		"rotate.at-most-share", "a share after which to rotate, and never rotating", "leave one of them out",
	},
	{
		func(t *Tunnel) bool { return t.Rotate.Every == Never && t.ESN != On },
		"rotate", "without rotation, sequence numbers of 32 bits end after minutes at 100 Gbit/s, and traffic stops", "write esn: on, or let it rotate",
	},
	{
		func(t *Tunnel) bool { return t.Rotate.Every == Never && t.Lifetime.limited() },
		"rotate", "SAs end by their lifetime, and are never rotated: traffic would stop", "let it rotate, or leave lifetime out",
	},
	{
		func(t *Tunnel) bool { return t.ESN == Off && t.Lifetime.Packets > 1<<32-1 },
		"lifetime.packets", "without ESN an SA ends after 4294967295 packets, before this limit", "write less, or esn: on",
	},
	{
		func(t *Tunnel) bool { return t.SAs.By == SpreadCPU && t.Engine == Userspace },
		"sas", "SAs per CPU are the kernel's; the userspace engine has one for each queue", "write sas: auto, or a number",
	},
	{
		func(t *Tunnel) bool {
			return t.SAs.By == SpreadPorts && (len(t.Selectors) == 0 || slices.ContainsFunc(t.Selectors, func(s Traffic) bool { return len(s.Ports) == 0 }))
		},
		"sas", "SAs by ports want ports in all selectors", "write selectors: [{protocol: tcp, ports: [5432, 5433]}], or sas: auto",
	},
}

// KernelOnly is the setting for which only the kernel's engine will do; "" if there is none.
func (t *Tunnel) KernelOnly() string {
	switch {
	case t.Mark != Mark{}:
		return "mark"
	case t.OutputMark != Mark{}:
		return "output-mark"
	case t.IfID != 0:
		return "if_id"
	case t.Offload == PacketOffload, t.Offload == RequireOffload:
		return "offload: " + string(t.Offload)
	case t.SAs.By == SpreadCPU:
		return "sas: per-cpu"
	}
	return ""
}

func (l Lifetime) limited() bool { return l.Time > 0 || l.Bytes > 0 || l.Packets > 0 }
