package verdict

import (
	"fmt"

	"espalier/ipsec"
)

// Verdict on one SA.
type Verdict string

const (
	Hardware Verdict = "HARDWARE" // a NIC encrypts, shown by its own counters
	Software Verdict = "SOFTWARE" // the kernel or the device encrypts on the CPU, and no NIC was to
	Mixed    Verdict = "MIXED"    // some packets by the NIC, some in software
	Emulated Verdict = "EMULATED" // an offload device that is no NIC, such as espalier's own
	Idle     Verdict = "IDLE"     // no packet in the interval: nothing to judge
	Unknown  Verdict = "UNKNOWN"  // the evidence does not suffice
)

// Evidence about one SA, gathered over an interval of traffic.
type Evidence struct {
	// Userspace is true if a userspace device, not the kernel, answered for the SA.
	Userspace bool
	// Offload as it was read back, after the add.
	Offload ipsec.Offload
	// Before and After are the SA's counters at both ends of the interval.
	Before, After ipsec.Counters
}

// Judge returns the verdict and, for a person, what it rests on.
func Judge(e Evidence) (Verdict, string) {
	moved := int64(e.After.Packets) - int64(e.Before.Packets)
	switch {
	case moved < 0:
		return Unknown, "the counters went backwards: the SA was replaced meanwhile"
	case moved == 0:
		return Idle, "no packet passed"
	case e.Offload.Mode == ipsec.NoOffload:
		return Software, fmt.Sprintf("%d packets; read back without an offload device", moved)
	case e.Userspace:
		return Emulated, fmt.Sprintf("%d packets; read back as %s offload to a userspace device", moved, e.Offload.Mode)
	}
	return Unknown, fmt.Sprintf("%d packets; read back as %s offload, but without the NIC's counters nobody knows who encrypted", moved, e.Offload.Mode)
}
