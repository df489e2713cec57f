// Package firewall reads the rules of nftables, iptables-nft's among them, and follows packets
// through them without sending any.
//
//	nf_tables over netlink ─► Chains, Rules, Matches ─► Pass ─► passes, dropped, depends
//
// What a rule asks that is not known, such as an address, or in words that are not understood
// here, makes the outcome depend on it; it is never taken for met or not met. Marks, NAT and
// fragments are not followed, nor are rules of iptables-legacy, bridges, tc and XDP.
//
// The package changes nothing. Decoded bytes are not kept.
package firewall
