// Package probe finds out what a host and its NICs can do for ESP. It changes nothing.
//
//	System (files, ethtool, netlink, the kernel's log) ─► Checks, layer by layer ─► Report
//
// Each [Check] is answered yes, no or unknown, with the evidence it rests on and, where the
// answer is no, what to do about it on this distribution. A [Report] says for each device
// whether crypto offload is ready, and what else the checks came to.
//
// What a device says of itself proves nothing: that an SA is offloaded is seen when it is read
// back, and that its packets are in the NIC's counters.
package probe
