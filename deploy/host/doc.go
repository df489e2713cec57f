// Package host is a host's part in changes of tunnels: it writes down what a change is about to do,
// does it, and undoes it by itself unless it is confirmed in time.
//
//	deploy/steps ─► Host.Operations ─► journal (synced) ─► Engine: SAs and policies
//	                                        │
//	              Host.Tick, each second ───┘ ─► undo when time is over; heartbeats; who is right
//	                                             when the coordinator is gone; what lingers
//
// One directory for each network namespace holds the journal, which has no keys, and two locks. All
// that changes the journal or what it is about goes on under the first, so that operations and the
// keeper (a process that calls Tick) never see half of a step. Each step may be asked for again.
//
// What the journal does not own is not touched. Keys arrive in the bodies of two steps, and are wiped
// when the engine has them. Times are those of CLOCK_BOOTTIME, together with the boot's number.
package host
