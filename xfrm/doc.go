// Package xfrm is the Linux dialect of IPsec: the grammar of `ip xfrm` (parse and print)
// and the NETLINK_XFRM messages (encode and decode, uapi linux/xfrm.h). It opens no
// sockets; xfrm/client and xfrm/server carry its messages.
//
//	words ─Parse→ Command{State | Policy | …} ─Encode→ netlink message
//	netlink message ─Decode→ State | Policy ─Print→ text
//
// [State] and [Policy] hold what the ABI can say, in host byte order and Go types.
// [State.SA] and [Policy.IPsec] translate into the vocabulary of package ipsec and refuse
// what that cannot express. Decoded values own their memory: nothing points into the
// message. Decoders never panic and never read past an attribute, whatever they are given.
package xfrm
