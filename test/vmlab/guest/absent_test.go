package guest

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/probe"
	"espalier/probe/trial"
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

// Without esp4_offload a trial is refused over IPv4, and says which module is missing.
func TestTrialWithoutModule(t *testing.T) {
	h := lab.New(t, "p4p1").A
	unload(t, "esp4_offload")
	t.Cleanup(func() {
		if err := load("/modules/esp4_offload.ko"); err != nil {
			t.Errorf("load esp4_offload again: %v", err)
		}
	})
	r := tryNIC(t, h)
	const refused = "refused EINVAL: Type doesn't support offload"
	wantAnswers(t, r, trial.Crypto, map[string]int{
		"256 software": 8, "256 " + refused: 19, "128 software": 8, "128 " + refused: 8, "192 software": 8, "192 " + refused: 8,
	})
	// What came off best is what is told: over IPv6 the SA is taken, and left to software.
	if c := r.Layer().Checks[0]; c.Answer != probe.No || !strings.Contains(c.Why, "software") {
		t.Errorf("%+v", c)
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
