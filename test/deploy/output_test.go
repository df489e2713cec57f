package deploy

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"
)

// output is what a program prints, while it does.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await waits until words were printed.
func (o *output) await(t *testing.T, words string) {
	t.Helper()
	for start := time.Now(); !strings.Contains(o.String(), words); time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("%q was not printed:\n%s", words, o)
		}
	}
}
