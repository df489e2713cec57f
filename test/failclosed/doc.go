// Package failclosed shows on the wire that no cleartext of a protected selector leaves or
// enters a host: without SAs, with a dead device, behind its back, while links come and go.
//
// Each test has a tap on the cable, and a control: the same traffic without the guard, which the
// tap must see in clear. Without it, seeing nothing would prove nothing.
package failclosed
