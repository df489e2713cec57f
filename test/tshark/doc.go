// Package tshark has Wireshark judge ESP in a capture: with the keys of the SAs it decrypts each
// packet, checks its ICV and dissects what is inside, by code that shares nothing with this
// project's.
package tshark
