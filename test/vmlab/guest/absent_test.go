package guest

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
)

// Without esp4_offload no SA is offloaded, and without esp4 there is none. This is the first
// test of all, by the name of its file: connections that linger hold SAs, and SAs the modules.
func TestModulesMissing(t *testing.T) {
	l := lab.New(t, "p4p1")
	c := kernelOf(t, l.A)
	for _, tt := range []struct{ module, want string }{
		{"esp4_offload", "refused: invalid argument: Type doesn't support offload"},
		{"esp4", "refused: protocol not supported: Requested type not found"},
	} {
		unload(t, tt.module)
		t.Cleanup(func() {
			if err := load("/modules/" + tt.module + ".ko"); err != nil {
				t.Errorf("load %s again: %v", tt.module, err)
			}
		})
		got := outcome(t, c, parse(t, l.A, state+aead+"128"+offload).State)
		Tell("Module not loaded", tt.module, got)
		if got != tt.want {
			t.Errorf("without %s: %q, want %q", tt.module, got, tt.want)
		}
		plain := outcome(t, c, parse(t, l.A, state+aead+"128").State)
		Tell("Module not loaded", tt.module+", no offload asked for", plain)
	}
}

// unload takes a module out. SAs that are gone hold it a little longer.
func unload(t *testing.T, module string) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		err := unix.DeleteModule(module, unix.O_NONBLOCK)
		if err == nil {
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("unload %s: %v", module, err)
		}
	}
}
