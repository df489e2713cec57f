// Package outage reports what the kernel does not: that a network device has gone down or away and
// has taken the SAs offloaded to it along. Linux deletes those on NETDEV_DOWN and NETDEV_UNREGISTER
// (net/xfrm/xfrm_device.c) without a message of NETLINK_XFRM.
//
// In flow the notifications of NETLINK_ROUTE about links and those of NETLINK_XFRM about states, in
// one order, and dumps of the SAD; out flow an [Outage] for each change of a link that concerns
// offloaded SAs. What is known of an SA here is its identity: keys are wiped where they come in.
//
// It is about the kernel only: a userspace device keeps its SAs when its links change.
package outage
