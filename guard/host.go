package guard

import (
	"errors"

	"espalier/ipsec"
)

// HostPolicy is a policy that the host's guard keeps without a process.
type HostPolicy struct {
	ipsec.Policy
	// Device is the underlay device of the userspace engine that has the policy, which need not exist
	// yet; "" if the kernel has it. The policy then holds back cleartext on that device only, and what
	// comes and goes by the engine's TUN is none of its business.
	Device string `json:",omitempty"`
	// Mark of the packets it is about, under Mask; 0 and 0: all.
	Mark, Mask uint32 `json:",omitempty"`
	// PacketOffload is for policies whose packets the NIC encrypts and frames: they pass through the
	// stack once more, as cleartext.
	PacketOffload bool `json:",omitempty"`
}

// HostRules are what the host's guard keeps.
type HostRules struct {
	Policies []HostPolicy // of equal priority the first given decides
	Encaps   []Encap      // admitted between their very ends and ports
}

// ApplyHost puts a guard for the rules in the place of the one there is, in one transaction, in the
// network namespace of the calling thread. On an error what was there stays. Without policies it is
// ReleaseHost. It wraps ipsec.ErrInvalid if an argument is at fault.
func ApplyHost(r HostRules) error { return errors.ErrUnsupported }

// ReleaseHost removes the host's guard; without one it does nothing.
func ReleaseHost() error { return errors.ErrUnsupported }

// HostCounters reads what the host's guard has dropped, and whether it is there.
func HostCounters() (c Counters, loaded bool, err error) {
	return Counters{}, false, errors.ErrUnsupported
}
