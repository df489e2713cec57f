// Package observe gathers the evidence that package verdict judges: it reads the SAD and the counters
// of the devices that SAs are offloaded to, before and after something happened, or time went by.
//
//	Observer.During: read ─► what happens meanwhile ─► read, again a little later if that may explain more
//	reading: counters ─► SAD ─► counters      so that what passes while the SAD is read gets its place
//
// It asks for all SAs at once, a device's counters once for each side of the SAD, and for routes only of
// SAs that are offloaded, each destination once. It changes nothing. Keys that a kernel dumps along are
// wiped where they come in.
package observe
