// Package guard makes a host fail closed: it keeps cleartext of protected selectors off
// the wire while no SA exists, while the IPsec device is dead, and behind its back.
//
// In flow the policies of an SPD and the UDP encapsulations its SAs own; out come nftables
// rules on the netdev ingress and egress hook of every underlay device. Routes steer
// packets into the IPsec device, but a socket bound to the underlay device leaves past any
// route; the hooks see every packet. The rules belong to the kernel: they outlive the
// process, SIGKILL included, and a restarted one reads them back with [Open].
//
// Before all that, ingress drops, uncounted, the ESP packets that a tap of the device has received already
// ([Guard.AddTapped]).
//
// Each device has a table of its own, `espalier_<device>` in family netdev. A packet walks
//
//  1. neighbour discovery: ICMPv6 133–137 with hop limit 255, unfragmented (RFC 4861,
//     RFC 6980): accepted
//  2. ESP (RFC 4303), also behind extension headers, and its fragments: accepted
//  3. UDP encapsulation of an SA (RFC 3948) and its fragments: accepted; going out only
//     between the SA's very ends, with the mark of the underlay's own sockets; coming in from
//     anywhere, as a NAT may move a peer, to the address and port of the SA's socket, behind
//     which nobody reads cleartext
//  4. the policies in SPD order (RFC 4301 §4.4.1): Outbound ones going out, Inbound and
//     Forward ones coming in. Bypass accepts; Protect and Discard drop and count; a Protect
//     whose processing is all Optional accepts
//
// and is accepted if it comes through. A policy is a rule; where many follow each other that
// have one effect and look at the same bits of addresses and ports, they share a rule and a set, of
// which each is an element: there [Guard.Change] adds and removes one without regard to the
// others, and a packet is looked up once for all of them. The encapsulations always are in sets.
// Always rules are policies without addresses or with an interface, and those with ports whose
// protocol is open or is ICMP.
//
// What drops a packet and what lets it pass are not mirror images. A policy that drops takes
// every packet that may be meant: a fragment without the ports it asks for, an IPv6 header
// chain that cannot be followed, and an authentication header (the walk ends there, so
// anything may be behind it). A policy that accepts takes only packets that show all it asks
// for. Ports are those of TCP, UDP, DCCP, SCTP and UDP-Lite, or ICMP type and code. Where a
// policy that drops names another protocol and ports, it takes all of that protocol; where it
// names only ports, another protocol's count as zero, as in Linux.
//
// Inbound and Forward policies share one list, because the hook is before routing: an
// Inbound Bypass that comes first also admits what is forwarded.
//
// A selector's Interface counts if it names an underlay device of the guard. If it names
// another one, a policy that drops is taken as if it named none, and one that accepts
// is left out.
//
// ARP, PPPoE and frames of a VLAN are not looked at: they belong to other interfaces. VLAN 0
// is no VLAN (IEEE 802.1Q priority tag): those frames are the device's own. A VLAN device
// that is itself the underlay must keep its default, reorder_hdr on, since otherwise it
// shows its packets with the tag. Addresses are those of the IP header: a source route is
// not followed, nor does Linux follow it in its own policies.
//
// The hooks do not see what is redirected by tc ingress or XDP, or sent through AF_XDP, and
// `nft flush ruleset` removes the guard until the next [Guard.Apply]. A device that was
// removed and is back needs an Apply too: not every kernel hooks it again. Egress hooks need
// Linux 5.16 with CONFIG_NETFILTER_EGRESS; every change needs CAP_NET_ADMIN.
//
// # The guard of the host
//
// [ApplyHost] makes a guard that needs neither a process nor a device: one table, `espalier` in family
// inet, from the policies a host owns. It is for the kernel's own ESP, and for the time before the network comes up. A packet
// passes its chains like those above, but first of all what an SA is going to encrypt (`rt ipsec`), and
// what an SA has decrypted (`meta secpath`: decrypted packets come by the same device again). Encapsulations are admitted
// between their very ends, both ways, without a mark: the kernel gives them none.
//
// It stands at postrouting, behind address translation, and at prerouting, before fragments are joined. The device's egress hook
// would see less: with packet offload the stack hands cleartext to the NIC, which frames and encrypts it, so that there
// nothing tells it from a leak. With crypto offload it is framed as ESP already, and the hook would do.
// What is handed over comes by postrouting a second time, when no SA is to encrypt it any more: the first time
// gives it a mark, by which the second knows it. Output and forward instead of postrouting would come before
// source addresses are translated, and so before it is certain what leaves. For prerouting Inbound and Forward are one list again.
//
// Of policies of the userspace engine only what is in clear on its underlay device, by name, is held
// back: packets come and go by the engine's TUN in clear. Each of these SPDs has chains at the hooks of its own.
//
// What packet sockets send, tc, XDP or a flowtable redirects, or a bridge forwards does not come by these hooks.
package guard
