// Package server answers NETLINK_XFRM messages on a unix seqpacket socket, in front of any
// ipsec.Database: what the kernel does for its own SAD and SPD on a netlink socket.
//
// In flow requests (linux/xfrm.h), one datagram with any number of messages as one send on
// a netlink socket; each is carried out and answered on its own. Out flow errors with a
// text (NLMSGERR_ATTR_MSG), acknowledgements where NLM_F_ACK asks for them, dumps, and to
// those who joined groups the notifications of what changed, and of what the database tells by
// itself (ipsec.Observable). NLMSG_NOOP with a mask of groups (bit g-1 for group g) takes the
// place of NETLINK_ADD_MEMBERSHIP. Nobody waits for a listener: one that does not keep up loses
// events, and finds an NLMSG_OVERRUN in their place, where a netlink socket fails with ENOBUFS.
//
// Keys flow in only: they go to the database, the server's own buffers are wiped, and what
// is read back or notified holds zeros of the key's length.
package server
