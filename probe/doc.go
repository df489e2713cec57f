// Package probe asks what a host's NICs can do for ESP. It changes nothing.
//
// What a device says of itself proves nothing: that an SA is offloaded is seen when it is read
// back, and that its packets are in the NIC's counters.
package probe
