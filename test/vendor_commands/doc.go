// Package vendorcmd runs the commands that people have: those of the NIC vendor's manual,
// unchanged, and the corrected pair in examples. It also holds the documentation of the device
// to what the device says.
package vendorcmd
