// Package client programs a SAD and SPD with NETLINK_XFRM messages: the kernel's over its
// netlink socket ([Kernel]), or a device's over a unix seqpacket socket ([Dial]), where
// one datagram is what one send on a netlink socket would be.
//
// In flow the State, Policy and filter values of package xfrm (or, by way of
// [Client.Database], those of package ipsec); out flow the same, and [Error] with the
// engine's own words. Values passed in stay the caller's and are copied into the message,
// whose key bytes are wiped once it is sent; values returned are the caller's.
//
// Every method takes a context that ends the wait. A request that was cut short may have
// been carried out: read back to know. All methods are safe for concurrent use; requests
// of one Client go one at a time, dumps and listeners have sockets of their own.
package client
