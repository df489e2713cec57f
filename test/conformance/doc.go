// Package conformance says how a SAD and SPD behave that is programmed with NETLINK_XFRM
// messages, as a table of cases: add, update, delete, get, dump, flush, lifetimes, selection,
// acquires, progress, events, errors. It knows an engine only through xfrm/client, so that the
// same suite runs against the userspace device, this machine's kernel and, in the VM lab, other
// kernels.
//
// Every case comes to an outcome in words. Most engines agree; where one differs on purpose, or a
// kernel did in an earlier version, the one table in differences.go says how and why. Everything
// else that differs is a bug.
package conformance
