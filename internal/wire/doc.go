// Package wire watches what really crosses a link and says of each packet whether it was
// protected.
//
// A [Watcher] reads copies of the packets from an AF_PACKET socket on one end of the cable:
// there, behind the netdev egress hook and before the ingress hook, everything that leaves
// or arrives passes, as it is on the wire. This holds for a userspace device only: under
// kernel or NIC encryption the tap shows plaintext that never leaves the host. [Classifier] is
// the judgement, without any I/O.
package wire
