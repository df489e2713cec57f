//go:build !amd64 || purego

package inet

func sumMost(b []byte) (sum uint64, rest []byte) { return sumWords(b) }
