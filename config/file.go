package config

import (
	"net/netip"

	"espalier/ipsec"
)

// File is what the tunnels between some hosts are to be.
type File struct {
	// What holds for every tunnel that does not say otherwise. A tunnel's own setting replaces the
	// default as a whole.
	Defaults *Settings `yaml:"defaults,omitempty"`
	// The tunnels. Of two whose traffic overlaps the narrower one wins; where neither lies within
	// the other, the file is refused.
	Tunnels []Tunnel `yaml:"tunnels" jsonschema:"minItems=1"`

	Name  string    `yaml:"-"` // of the file, for messages
	Notes []Problem `yaml:"-"` // what is not wrong, but may surprise
}

// Tunnel protects the traffic between hosts, or between the subnets behind them: each host with
// each other.
type Tunnel struct {
	// Name of the tunnel: letters, digits, dots, underscores, hyphens. With the hosts' addresses it
	// is what the tunnel is known by when it is applied again: change it, and it is another tunnel.
	Name string `yaml:"name"`
	// The hosts: two, or more for a full mesh.
	Hosts []Host `yaml:"hosts" jsonschema:"minItems=2,maxItems=64"`

	Settings `yaml:",inline"`

	Pairs []Pair `yaml:"-"` // of hosts, in the order of the file

	place place
}

// Host is one end of a tunnel. What is said of an address once counts in all tunnels of the file.
// In short: its address alone.
type Host struct {
	// The address that ESP comes from and goes to, without prefix length. Of one family in a tunnel.
	Address netip.Addr `yaml:"address"`
	// Name of the network device that has the address, such as p4p1. The device that is to encrypt,
	// and that is guarded against cleartext.
	Dev string `yaml:"dev,omitempty"`
	// The networks behind this host. With them the tunnel is in tunnel mode, and only what goes from
	// the networks of one host to those of another is protected.
	Subnets []netip.Prefix `yaml:"subnets,omitempty,flow"`
	// How the host is reached by ssh when the commands are given on another one, as in
	// "ssh root@db2". Left out: only as the host that commands are given on.
	SSH *SSH `yaml:"ssh,omitempty"`
	// Whether espalier runs by "sudo -n" there. auto: when the one who logs in is not root.
	Sudo Switch `yaml:"sudo,omitempty"`

	place place
}

// SSH is how a host is reached. In short: the destination alone. All else is in ~/.ssh/config, which
// is read as ever.
type SSH struct {
	// Destination, as ssh takes it: root@db2, or a Host of ~/.ssh/config.
	To string `yaml:"to"`
	// Port of the ssh server; left out: as ~/.ssh/config says, else 22.
	Port uint16 `yaml:"port,omitempty"`
	// Path of the private key to log in with. The key itself is never in this file.
	Identity string `yaml:"identity,omitempty"`
	// Host to go by, as ssh -J takes it.
	Jump string `yaml:"jump,omitempty"`
}

// Settings are what may be said of one tunnel, or of all.
type Settings struct {
	// transport protects what the hosts say to each other; tunnel wraps whole packets, and is for
	// subnets. Left out: tunnel if the hosts have subnets.
	Mode Mode `yaml:"mode,omitempty"`
	// The traffic to protect; left out: all of it.
	Selectors []Traffic `yaml:"selectors,omitempty"`
	// The traffic that goes in clear although selectors cover it, such as ssh for management: part of
	// it, and narrower.
	Bypass []Traffic `yaml:"bypass,omitempty"`
	// none: ESP as IP protocol 50. udp: ESP in UDP (RFC 3948), which passes NATs.
	Encap Encap `yaml:"encap,omitempty"`
	// Extended sequence numbers of 64 bits (RFC 4303). auto: where both hosts can.
	ESN Switch `yaml:"esn,omitempty"`
	// Anti-replay window in packets, 32 to 4096. auto: as large as what encrypts can have.
	Window Window `yaml:"window,omitempty"`
	// Bits of the AES key: 128 or 256. Left out: 256.
	KeySize uint16 `yaml:"key-size,omitempty"`
	// Limits after which an SA ends. Left out: none, rotation only.
	Lifetime Lifetime `yaml:"lifetime,omitempty"`
	// When SAs are replaced by new ones with fresh keys, while traffic runs.
	Rotate Rotate `yaml:"rotate,omitempty"`
	// Only packets with this fwmark, as VALUE/MASK (kernel only).
	Mark Mark `yaml:"mark,omitempty"`
	// The fwmark that protected packets get, as VALUE/MASK (kernel only).
	OutputMark Mark `yaml:"output-mark,omitempty"`
	// Number of the XFRM interface the tunnel belongs to (kernel only); 0: none. Routes then choose
	// the traffic, and subnets may overlap.
	IfID uint32 `yaml:"if_id,omitempty"`
	// Who does ESP: the kernel, or espalier's userspace device. auto: the kernel where it can.
	Engine Engine `yaml:"engine,omitempty"`
	// What the NIC is to do. crypto: encrypt; packet: all of ESP; auto: the most that NIC and kernel
	// can; no: nothing. An SA that does not get it is encrypted in software, which is told. require:
	// the most there is, and nothing is set up unless the NIC encrypts.
	Offload Offload `yaml:"offload,omitempty"`
	// SAs in each direction between two hosts, so that several CPUs share the work: a number;
	// per-cpu: one for each CPU (kernel); ports: one for each port of selectors. auto: one, or in the
	// userspace device one for each queue.
	SAs SAs `yaml:"sas,omitempty"`
}

// Traffic is part of what two hosts, or their subnets, say to each other. In short: tcp, or tcp/22.
type Traffic struct {
	// IP protocol: tcp, udp, icmp, icmpv6, sctp, …, or its number. any: all.
	Protocol Protocol `yaml:"protocol,omitempty"`
	// Ports of services, at either end unless at says at which. Left out: all.
	Ports []uint16 `yaml:"ports,omitempty,flow"`
	// Address of the host that has the ports, or whose subnets have them.
	At netip.Addr `yaml:"at,omitempty"`
}

// Encap is whether ESP goes in UDP. In short: none or udp.
type Encap struct {
	// none or udp.
	Type EncapType `yaml:"type"`
	// UDP port of both hosts; left out: 4500.
	Port uint16 `yaml:"port,omitempty"`
}

// Lifetime is when an SA ends (RFC 4301 §4.4.2.1). At a hard limit it does, and traffic stops if
// there is no other; at the soft limit before it is rotated.
type Lifetime struct {
	// Hard limit of time, such as 8h.
	Time Duration `yaml:"time,omitempty"`
	// Hard limit of bytes, such as 64GiB.
	Bytes Bytes `yaml:"bytes,omitempty"`
	// Hard limit of packets.
	Packets uint64 `yaml:"packets,omitempty"`
	// The soft limits: a share of the hard ones, or each by itself. Left out: 80%.
	Soft Soft `yaml:"soft,omitempty"`
}

// Soft is the soft limits of a lifetime. In short: a share of the hard ones, such as 80%.
type Soft struct {
	// Share of the hard limits, for those that are not given here.
	Share Percent `yaml:"share,omitempty"`
	// Soft limit of time.
	Time Duration `yaml:"time,omitempty"`
	// Soft limit of bytes.
	Bytes Bytes `yaml:"bytes,omitempty"`
	// Soft limit of packets.
	Packets uint64 `yaml:"packets,omitempty"`
}

// Rotate is when SAs are replaced: at whichever comes first. In short: the time, or never.
type Rotate struct {
	// Time between two rotations, such as 8h, or never. Left out: 8h, or the soft limit of time if
	// that is less.
	Every Duration `yaml:"every,omitempty"`
	// The share of an SA's sequence numbers that may be used, at line rate. Left out: 50%.
	AtMostShare Percent `yaml:"at-most-share,omitempty"`
}

// Limits are those of the SAs.
func (l Lifetime) Limits() ipsec.Limits {
	return ipsec.Limits{
		SoftTime: l.Soft.Time.std(), HardTime: l.Time.std(),
		SoftBytes: uint64(l.Soft.Bytes), HardBytes: uint64(l.Bytes),
		SoftPackets: l.Soft.Packets, HardPackets: l.Packets,
	}
}

// IsZero reports whether there is no limit. (Of a resolved lifetime: there are no soft ones alone.)
func (l Lifetime) IsZero() bool { return l == Lifetime{} }

// Place is where a setting of the tunnel stands, by its path: "offload", "hosts[0].dev"; that of a
// default if it comes from there, and where the tunnel begins if it is not in the file at all.
func (t *Tunnel) Place(setting string) Position { return t.place.of(setting) }

// Place is where a setting of the host stands: "address", "dev".
func (h *Host) Place(setting string) Position { return h.place.of(setting) }
