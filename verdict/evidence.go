package verdict

import (
	"time"

	"espalier/ipsec"
)

// Evidence about the SAs of a host, gathered over an interval of traffic.
type Evidence struct {
	Engine   Engine        // who answered for the SAs
	Interval time.Duration // between the readings at its beginning and those at its end
	// SAs are all of the SAD, also those that are not offloaded.
	SAs []SA
	// Gone are offloaded SAs that were there at the beginning and are not at the end.
	Gone []Gone
	// Devices are those that SAs are offloaded to, or that their packets leave by.
	Devices []Device
}

// Engine is a SAD and those who carry its SAs out.
type Engine uint8

const (
	Kernel    Engine = iota // and the NICs it hands SAs to
	Userspace               // a userspace device of espalier's
)

// SA is what is known of one SA.
type SA struct {
	ID        ipsec.SAID
	Direction ipsec.Direction // AnyDirection: it could not be told
	Offload   ipsec.Offload   // as it was read back at the end
	// Changed: the SA was not there at the beginning, or another one was by its name. Before is zero then.
	Changed       bool
	Before, After Counts
	// Route is the ifindex of the device that packets to the SA's destination leave by, of an
	// offloaded outbound SA; 0 if it is not known.
	Route int
	// CPU is how many of its packets the kernel's own ESP encrypted or decrypted in the interval; nil if
	// nobody counted that.
	CPU *Range
}

// Range is a number that is known to be between two.
type Range struct{ Low, High uint64 }

// SAOf is an SA as an engine gives it back, and its counters as they were at the beginning.
func SAOf(sa *ipsec.SA, before *ipsec.Counters) SA {
	return SA{ID: sa.ID(), Direction: sa.Direction, Offload: sa.Offload, Before: countsOf(before, sa.Direction), After: countsOf(&sa.Counters, sa.Direction)}
}

func countsOf(c *ipsec.Counters, d ipsec.Direction) Counts {
	n := Counts{
		Packets: c.Packets, Bytes: c.Bytes,
		Replayed: c.ReplayDrops, Late: c.WindowDrops, Forged: c.IntegrityDrops,
	}
	switch d {
	case ipsec.Outbound:
		n.Sequence = c.Sent
	case ipsec.Inbound:
		n.Sequence = c.Received
	default:
		n.Sequence = max(c.Sent, c.Received)
	}
	return n
}

// Counts of one SA.
type Counts struct {
	Sequence uint64 // last number sent, or highest received (64-bit with ESN)
	Packets  uint64 // outbound, a packet that the NIC cuts up counts once
	Bytes    uint64
	Replayed uint64 // dropped: seen before
	Late     uint64 // dropped: older than the replay window
	Forged   uint64 // dropped: the ICV did not verify
}

// Gone is an offloaded SA that went in the interval, or came and went.
type Gone struct {
	Device    int // ifindex
	Direction ipsec.Direction
	// Packets are the most that it can have had in the interval; nil: that is not known.
	Packets *uint64
}

// Device is a network device that SAs are offloaded to or routed through.
type Device struct {
	Index  int // as SAs and routes name it
	Name   string
	Driver string // "" if none is told
	// Kind is that of a virtual device: "vlan", "bond"; "" for hardware.
	Kind string
	// Lower is the device below a VLAN. Of a bond it is the active port, whose driver, features and
	// counters stand for the bond's.
	Lower string
	// Shifted: a bond's active port was another at the end.
	Shifted bool

	Up, Carrier bool
	// ESP is the feature esp-hw-offload at both ends of the interval.
	ESP [2]Feature
	// Readings are of the device's counters: before and after the SAD was read at the beginning, and
	// the same at the end, each as long before or after as a packet may be under way between the stack,
	// which numbers it, and the NIC, which counts it. Packets that pass meanwhile so get their place.
	Readings [4]Reading
	// Counts: the driver counts the packets that it encrypts and decrypts.
	Counts bool
	// Problem is why the device could not be asked; "" if it was.
	Problem string
}

// Feature is a switch of a device's.
type Feature uint8

const (
	FeatureUnknown Feature = iota
	FeatureOn
	FeatureOff
)

// Reading of a device's counters.
type Reading struct {
	Sent, Received Tally
}

// Tally of one direction of a device.
type Tally struct {
	ESP     uint64 // packets encrypted (ipsec_tx_pkts) or decrypted (ipsec_rx_pkts) by the NIC
	Dropped uint64 // packets of SAs that the NIC dropped (ipsec_tx_drop_pkts, ipsec_rx_drop_pkts)
	Link    uint64 // packets of any kind that the link carried
	Lost    uint64 // packets of any kind that were lost before the link: dropped in a queue, or by the driver
}

// device finds a device by its ifindex.
func (e *Evidence) device(index int) *Device {
	for i := range e.Devices {
		if e.Devices[i].Index == index {
			return &e.Devices[i]
		}
	}
	return nil
}
