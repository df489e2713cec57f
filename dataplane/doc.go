// Package dataplane is the userspace offload device: it does for a host without an
// offloading NIC what the NIC and the kernel's ESP would do, and is programmed alike.
//
//	application → route → TUN → SPD → SA → ESP → AES-GCM → underlay → wire    outbound.go, encapsulate.go, emit.go
//	wire → underlay → SA by SPI → replay → AES-GCM → SPD check → TUN → kernel  inbound.go
//
// A [Device] belongs to one underlay device (p4p1) in the network namespace of the process
// and implements [ipsec.Database]. Adding a policy does three things in this order: the
// guard closes its selector for cleartext, the steering routes it into the TUN, the SPD
// begins to decide. Removing one undoes them in reverse, so that at no moment cleartext of
// a protected selector may leave.
//
// Each TUN queue has a crew of two workers, with a thread each: the first reads the queue and its share
// of the underlay's sockets, and under load the second takes the sockets over. A worker carries a packet
// through to the end; the buffers belong to what it reads from (outbound, inbound). Drops are
// typed and counted in drops.go. What packets and time make due beyond that, the keeper does in a
// goroutine of its own: SAs and policies that expire, SAs that are wanted, progress and moves of peers
// that are to be told, NATs that are to be kept open, path MTUs. Times are those of package time, so
// that tests run in bubbles of testing/synctest.
//
// What routers say about packets of ours that were too big is heard in routers.go; what the kernel is
// told about packets of its own is made in toobig.go.
//
// RFC 4301 §5 (processing) and §8 (path MTU), RFC 4303 (ESP), RFC 6040 (ECN), RFC 3948 (UDP
// encapsulation), RFC 8899 (probing for the path MTU).
package dataplane
