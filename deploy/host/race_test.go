//go:build race

package host

// The race detector takes its time, and a world has one thread.
func init() { sparse = 2 }
