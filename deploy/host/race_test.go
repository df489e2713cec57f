//go:build race

package host

// A world has one thread, in which the race detector finds little, and it takes five times as long: all cases are
// tried without it, and some with it.
func init() { sparse = 8 }
