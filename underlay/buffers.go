package underlay

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// newBuffers makes room for n bytes beside Go's heap, as long as owner lives. Receive buffers are large, and
// the collector lets as much garbage wait as the heap holds otherwise. Their pages are there once
// something has been received into them.
func newBuffers[T any](owner *T, n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("make receive buffers of %d bytes: %w", n, err)
	}
	runtime.AddCleanup(owner, func(b []byte) { unix.Munmap(b) }, b)
	return b, nil
}
