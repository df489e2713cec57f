// Package tunnel plans: it makes of the file of tunnels and of what hosts told of themselves the SAs
// and policies that each of them is to have, and what that changes.
//
//	config.File, Facts of each host ─► Make ─► Plan: pairs with the SAs and policies of both ends
//
// It is pure: no I/O, no netlink, no packets, nothing random but what Pair.Fill is given. Plans point
// into the file they were made of. SAs have neither SPI nor key until they are filled.
package tunnel
