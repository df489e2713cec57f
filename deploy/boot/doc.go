// Package boot keeps what outlives a reboot, and what needs no process of ours to last: the guard of
// the tunnels a host owns, the unit that loads it before networking, the timer that has SAs replaced
// in time, and whoever holds the socket of UDP encapsulation for the kernel's ESP.
//
//	owned pairs ─► Place.Install ─► guard file ─► guard.ApplyHost      espalier-guard.service
//	                                    └── at boot: Place.Load ──┘            └─ espalier boot
//
// Nothing in its files is secret. A Place is one network namespace: units belong to the host, so
// outside of the initial namespace they are installed only where a directory for them is given.
package boot
