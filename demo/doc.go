// Package demo shows the whole flow on one machine, without any NIC: two hosts in network
// namespaces, joined by a virtual cable, each with a userspace offload device that is
// programmed over its socket like any SAD and SPD; traffic both ways; and a tap on the cable
// that tells what really crossed it.
//
// [Run] takes [Options] and returns a [Report]. It runs no program but espalier itself (the
// two devices) and leaves nothing behind: the namespaces go with the processes.
package demo
