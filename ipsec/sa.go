package ipsec

import (
	"fmt"
	"net/netip"
	"time"
)

// SPI is a Security Parameters Index (RFC 4303 §2.1). 0 is not a valid SPI on the wire
// and 1–255 are reserved.
type SPI uint32

func (s SPI) String() string { return fmt.Sprintf("0x%08x", uint32(s)) }

// Mode tells what an SA encapsulates (RFC 4301 §3.2).
type Mode uint8

const (
	Transport Mode = iota // the payload of the original IP packet; the zero value
	Tunnel                // the whole original IP packet, behind a new IP header
)

func (m Mode) String() string {
	switch m {
	case Transport:
		return "transport"
	case Tunnel:
		return "tunnel"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// Direction of an SA or a policy, seen from the host that holds it.
type Direction uint8

const (
	AnyDirection Direction = iota // SAs only: usable both ways, as a Linux state without `dir`
	Inbound
	Outbound
	Forward // policies only: decrypted traffic that this host forwards (Linux `fwd`)
)

func (d Direction) String() string {
	switch d {
	case AnyDirection:
		return "any"
	case Inbound:
		return "in"
	case Outbound:
		return "out"
	case Forward:
		return "fwd"
	}
	return fmt.Sprintf("direction(%d)", uint8(d))
}

// OffloadMode is what an SA asks of a NIC.
type OffloadMode uint8

const (
	NoOffload     OffloadMode = iota // the engine encrypts on the CPU
	CryptoOffload                    // the NIC encrypts and decrypts; the stack does the rest of ESP
	PacketOffload                    // the NIC does all of ESP and the policy
)

func (o OffloadMode) String() string {
	switch o {
	case NoOffload:
		return "no"
	case CryptoOffload:
		return "crypto"
	case PacketOffload:
		return "packet"
	}
	return fmt.Sprintf("offload(%d)", uint8(o))
}

// Offload names the device an SA is handed to. The zero value asks for none. What an
// engine really granted is known only by reading the SA back: an SA whose Offload reads
// zero is encrypted in software whatever was asked for.
type Offload struct {
	Mode      OffloadMode
	Interface int       // ifindex of the device; meaningful when Mode is not NoOffload
	Direction Direction // Inbound or Outbound; meaningful when Mode is not NoOffload
}

// Encap is UDP encapsulation of ESP (RFC 3948). Ports are those of the SA's own
// direction: packets go from SrcPort to DstPort.
type Encap struct {
	SrcPort, DstPort uint16
	// Original is the source address that the sender's packets had before a NAT changed it, which
	// the checksums of transport mode cover (RFC 3948 §3.1.2, NAT-OA of RFC 3947). Zero: unknown.
	// Only an inbound SA has a use for it.
	Original netip.Addr
}

// SAID identifies an SA in a SAD. As in Linux, two SAs may share an SPI if their
// destinations differ.
type SAID struct {
	Dst netip.Addr
	SPI SPI
}

func (id SAID) String() string { return fmt.Sprintf("%s→%s", id.SPI, id.Dst) }

// Limits after which an SA expires (RFC 4301 §4.4.2.1), or a policy. Zero is no limit. A soft
// limit is told (SAExpired, PolicyExpired), a hard one ends it. The packet that finds a limit of
// bytes or packets reached is the first beyond it: it makes the SA expire, and a hard limit
// drops it.
type Limits struct {
	SoftBytes, HardBytes     uint64
	SoftPackets, HardPackets uint64
	SoftTime, HardTime       time.Duration // since the SA was added
	SoftIdle, HardIdle       time.Duration // since its first use, for a policy its last (Linux time-use-*)
}

// IsZero reports whether no limit is set.
func (l Limits) IsZero() bool { return l == Limits{} }

// SA is one ESP security association with AES-GCM (RFC 4301 §4.1, RFC 4303, RFC 4106).
type SA struct {
	Src, Dst  netip.Addr
	SPI       SPI
	Mode      Mode
	Direction Direction

	// RequestID ties the SA to the policies whose Processing carries the same number
	// (Linux `reqid`). 0 is an ordinary number for outbound look-ups.
	RequestID uint32

	Key     Key    // AES key followed by the 4-byte salt: 20, 28 or 36 bytes (RFC 4106 §8.1)
	ICVBits int    // 64, 96 or 128
	ESN     bool   // 64-bit sequence numbers (RFC 4303 §2.2.1)
	Window  uint32 // anti-replay window in packets; 0 does not check

	// Larval marks a placeholder for an SA that is being negotiated (RFC 2367 §2.3): it has
	// no key, carries nothing, and goes by itself. Its SPI is 0 until one is allocated.
	Larval bool
	// AcquireID ties the SA to the Acquire it answers (Linux `seq`); 0 is none.
	AcquireID uint32

	Selector Selector // traffic the SA may carry; the zero Selector matches everything
	Encap    *Encap   // nil: IP protocol 50

	// NATKeepalive is after how long without a packet sent a NAT keepalive goes to the peer (RFC
	// 3948 §2.3), in whole seconds; 0 is never. Only an outbound SA with Encap takes it.
	NATKeepalive time.Duration
	// MappingAge is after how long PeerMoved is told again while the peer's packets come from the
	// same wrong place, in whole seconds; 0 is never. Only an SA with Encap that is not outbound
	// takes it.
	MappingAge time.Duration

	// CPU, unless nil, has the SA send only what this CPU sends; in the userspace device, what the TUN
	// queue of this number does. An SA for the CPU is then preferred to one for any, and those of other
	// CPUs are not used (Linux XFRMA_SA_PCPU). It needs a Direction; nothing inbound depends on it.
	CPU *uint32

	Offload Offload
	Limits  Limits
	Notice  *Notice // when to tell of Progress; nil: as the engine does by default

	// Counters start from the numbers given when the SA is added and are read back by
	// Lookup and List.
	Counters Counters
}

// ID is the identity of the SA in a SAD.
func (sa *SA) ID() SAID { return SAID{Dst: sa.Dst, SPI: sa.SPI} }

// Counters is the part of an SA that changes by itself.
type Counters struct {
	Sent     uint64 // last sequence number sent (64-bit with ESN); the next packet carries Sent+1
	Received uint64 // highest sequence number authenticated
	Bitmap   []uint32

	Bytes, Packets uint64
	Added, Used    time.Time // when it was added and first used; zero: unknown, never
	LastUsed       time.Time // zero: unknown, never

	ReplayDrops    uint64 // seen before
	WindowDrops    uint64 // older than the window
	IntegrityDrops uint64 // ICV did not verify
}
