// Package nat has two userspace devices speak to each other through a NAT of the kernel's, in
// transport mode with UDP encapsulation: what RFC 3948 is for. The NAT is nftables' masquerade in a
// third namespace, and forgets fast.
package nat
