package failclosed

import (
	"os"
	"strings"
	"testing"

	"espalier/test/lab"
)

// Stopping is not a wish for cleartext: the guard stays until --release, or until the policies
// are gone. What the device changed on the host, it puts back.
func TestStopAndRelease(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "nft", "ip")
	for _, end := range []struct {
		name string
		end  func(*testing.T, *lab.Host)
	}{
		{"stopped", func(t *testing.T, h *lab.Host) {
			if code := h.Stop(); code != 0 {
				t.Errorf("exit %d", code)
			}
			wantRPFilter(t, h, "1") // put back at once
		}},
		{"killed", func(t *testing.T, h *lab.Host) {
			h.Kill()
			wantRPFilter(t, h, "2") // nobody was left to
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			t.Parallel()
			l := lab.New(t, "")
			setRPFilter(t, l.A, "1")
			startDevices(l)
			program(l, pairs(0))
			wantRPFilter(t, l.A, "2")
			end.end(t, l.A)

			wantClosed(t, l, l.A, end.name, func() { tryAll(l) })
			if r := l.A.Espalier("dataplane", "--release", "--dev", l.Device, "--listen", l.A.Socket); r.Code != 0 {
				t.Fatalf("release: exit %d: %s", r.Code, r.Stderr)
			}
			checkControl(t, l) // open again
			wantRPFilter(t, l.A, "1")
			if left := l.A.Must("nft", "list", "ruleset"); left != "" {
				t.Errorf("release leaves rules:\n%s", left)
			}
			if rules := l.A.Must("ip", "rule") + l.A.Must("ip", "-6", "rule"); strings.Contains(rules, "fwmark") {
				t.Errorf("release leaves a rule:\n%s", rules)
			}
		})
	}
}

// A device that has no policies any more has nothing to guard.
func TestStopWithoutPolicies(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "nft")
	l := lab.New(t, "")
	startDevices(l)
	program(l, pairs(0))
	if r := l.A.Xfrm("policy", "flush"); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	l.A.Stop()
	checkControl(t, l)
	if left := l.A.Must("nft", "list", "ruleset"); left != "" {
		t.Errorf("rules are left:\n%s", left)
	}
}

func rpFilter(device string) string { return "/proc/sys/net/ipv4/conf/" + device + "/rp_filter" }

// setRPFilter sets it for all devices and for the host's own.
func setRPFilter(t *testing.T, h *lab.Host, value string) {
	t.Helper()
	for _, device := range []string{"all", h.Device} {
		if err := h.Do(func() error { return os.WriteFile(rpFilter(device), []byte(value), 0) }); err != nil {
			t.Fatal(err)
		}
	}
}

func wantRPFilter(t *testing.T, h *lab.Host, want string) {
	t.Helper()
	var got []byte
	err := h.Do(func() (err error) {
		got, err = os.ReadFile(rpFilter(h.Device))
		return err
	})
	if err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("rp_filter of %s is %q, %v; want %s", h.Device, got, err, want)
	}
}
