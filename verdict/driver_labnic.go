//go:build labnic

package verdict

// labNIC passes for hardware in binaries of tests, so that HARDWARE is really reached in them.
const labNIC = Trusted
