//go:build !labnic

package verdict

// labNIC is a driver of tests, and an emulation.
const labNIC = Emulation
