package tunnel

import (
	"net/netip"
	"time"

	"espalier/config"
	"espalier/ipsec"
)

// Facts are what a host told of itself. There is no key in them.
type Facts struct {
	Hostname string `json:"hostname"`
	BootID   string `json:"boot_id"` // /proc/sys/kernel/random/boot_id
	NetNS    uint64 `json:"netns"`   // inode of the network namespace: with BootID, what tells hosts apart
	Kernel   string `json:"kernel"`  // release, as uname -r
	// Devices of the network namespace, without the loopback device.
	Devices []Device `json:"devices"`
	// Engines that do ESP here: the kernel, and the userspace devices that run.
	Engines []Engine `json:"engines"`
	// Owned are the pairs that espalier has set up here.
	Owned []Owned `json:"owned,omitempty"`
	// Lost is what espalier has made to last for Owned and is not there any more, in words: the guard,
	// units, holders of UDP ports. Any change puts it back.
	Lost []string `json:"lost,omitempty"`
	// Change that is not over yet, in words: no other one can begin. "" is none.
	Change string `json:"change,omitempty"`
	// ChangeLeft is after which time another one can begin whatever becomes of it; 0: that is not known;
	// nanoseconds.
	ChangeLeft time.Duration `json:"change_left,omitempty"`
	// Boot is whether a unit can be installed that loads the guard before the network is up.
	Boot Answer `json:"boot"`
	// Timer is whether one can be installed that has SAs rotated.
	Timer Answer `json:"timer"`
}

// Same reports whether two hosts are one: of the same boot and network namespace.
func (f *Facts) Same(other *Facts) bool { return f.BootID == other.BootID && f.NetNS == other.NetNS }

// Can is yes, no, or unknown.
type Can string

const (
	Yes     Can = "yes"
	No      Can = "no"
	Unknown Can = "unknown"
)

// Answer is whether something is possible; if it is not, or not known, why.
type Answer struct {
	Can Can    `json:"can"`
	Why string `json:"why,omitempty"`
}

// Device is a network device.
type Device struct {
	Name      string         `json:"name"`
	Index     int            `json:"index"`
	MTU       int            `json:"mtu"`             // bytes
	Speed     uint32         `json:"speed,omitempty"` // of the link, in Mb/s; 0 is not known
	Driver    string         `json:"driver,omitempty"`
	Up        bool           `json:"up"`
	IfID      uint32         `json:"if_id,omitempty"`     // of an xfrm interface
	Addresses []netip.Prefix `json:"addresses,omitempty"` // with the length of the network they are in
	// Crypto and Packet are whether the NIC takes that part of ESP off the kernel.
	Crypto Answer `json:"crypto"`
	Packet Answer `json:"packet"`
	// Lacks are what crypto offload of this NIC cannot do, although the kernel can.
	Lacks []Lack `json:"lacks,omitempty"`
}

// Lack is something that a NIC cannot do.
type Lack string

const (
	LacksESN       Lack = "ESN"
	LacksTunnel    Lack = "tunnel mode"
	LacksAES256    Lack = "AES-256"
	LacksReceiving Lack = "receiving"
)

// Engine is a SAD and SPD.
type Engine struct {
	Name   string `json:"name"`             // "kernel", or "unix:PATH" of a userspace device's socket
	Device string `json:"device,omitempty"` // that a userspace device does ESP for; "" is the kernel's, for all
	ESP    Answer `json:"esp"`              // whether it does ESP with AES-GCM, over IPv4
	ESP6   Answer `json:"esp6"`             // the same over IPv6
	ESN    Answer `json:"esn"`
	UDP    Answer `json:"udp"` // ESP in UDP
	// Direction is whether it knows SAs of one direction (Linux XFRMA_SA_DIR): outbound ones then
	// have no window.
	Direction Answer `json:"direction"`
	// PCPU is whether an SA can be tied to a CPU (Linux XFRMA_SA_PCPU), or to a queue of the device.
	PCPU      Answer `json:"pcpu"`
	MaxWindow uint32 `json:"max_window"` // packets
	// Lanes is how many SAs work at the same time: CPUs of the kernel, queues of a device. They are
	// numbered from 0.
	Lanes    int          `json:"lanes"`
	SAs      []LiveSA     `json:"sas,omitempty"`
	Policies []LivePolicy `json:"policies,omitempty"`
}

// LiveSA is an ESP SA that is there, without its key.
type LiveSA struct {
	SAID
	Mode       ipsec.Mode      `json:"mode"`
	Direction  ipsec.Direction `json:"direction"` // AnyDirection if the engine does not say
	RequestID  uint32          `json:"request_id"`
	KeyBits    uint32          `json:"key_bits"` // of AES, without the salt; 0: another algorithm
	ICVBits    uint32          `json:"icv_bits"`
	ESN        bool            `json:"esn"`
	Window     uint32          `json:"window"`
	Larval     bool            `json:"larval,omitempty"`
	Encap      *ipsec.Encap    `json:"encap,omitempty"`
	Selector   ipsec.Selector  `json:"selector"`
	Offload    ipsec.Offload   `json:"offload"` // that was granted
	Limits     ipsec.Limits    `json:"limits"`
	OutputMark config.Mark     `json:"output_mark,omitzero"`
	IfID       uint32          `json:"if_id,omitempty"`
	CPU        *uint32         `json:"cpu,omitempty"`
	Other      bool            `json:"other,omitempty"`     // there is more to it, which espalier never sets
	Lingering  bool            `json:"lingering,omitempty"` // it is left from an undone change, and goes by itself
	Sent       uint64          `json:"sent"`                // last sequence number
	Added      time.Time       `json:"added,omitzero"`
}

// LivePolicy is a policy that is there.
type LivePolicy struct {
	Policy
	Other bool `json:"other,omitempty"` // there is more to it, which espalier never sets
}

// Owned is this host's side of a pair, as its journal has it.
type Owned struct {
	Tunnel   string     `json:"tunnel"`
	Origin   string     `json:"origin"`
	Local    netip.Addr `json:"local"`
	Remote   netip.Addr `json:"remote"`
	Engine   string     `json:"engine"`
	Device   string     `json:"device"`
	Outbound []SAID     `json:"outbound,omitempty"` // of the present generation
	Inbound  []SAID     `json:"inbound,omitempty"`
	Policies []Policy   `json:"policies,omitempty"` // as they are to be: processing that is required
	Rotate   Rotation   `json:"rotate,omitzero"`
	Since    time.Time  `json:"since"` // the time of day there when the present generation began, for people
	// Age of the present generation, whatever the clocks were set to meanwhile; 0 after a boot, which
	// has ended it. Nanoseconds.
	Age time.Duration `json:"age"`
	// Undecided says that the last change of it was confirmed here, and that it is not known what became
	// of it at the peer: there are SAs of two generations.
	Undecided bool `json:"undecided,omitempty"`
}
