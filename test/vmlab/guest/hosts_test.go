package guest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/test/lab"
	"espalier/xfrm/client"
)

const vendor = "/vendor/"

// espalier runs the program under test against the kernel.
func espalier(t *testing.T, h *lab.Host, args ...string) string {
	t.Helper()
	return h.Must(Espalier, append([]string{"xfrm", "--sad", "kernel"}, args...)...)
}

// program is one of the two ways to give a kernel a script, or one command, whose answer is
// returned.
type program struct {
	name string
	run  func(t *testing.T, h *lab.Host, script string)
	ask  func(t *testing.T, h *lab.Host, words string) string
}

var programs = []program{
	{
		"espalier",
		func(t *testing.T, h *lab.Host, script string) {
			espalier(t, h, "-batch", write(t, h, script))
		},
		func(t *testing.T, h *lab.Host, words string) string {
			return espalier(t, h, append([]string{"--show-keys"}, strings.Fields(words)...)...)
		},
	},
	{
		"iproute2",
		func(t *testing.T, h *lab.Host, script string) {
			var lines strings.Builder
			for line := range strings.Lines(script) {
				lines.WriteString(strings.TrimPrefix(line, "ip "))
			}
			h.Must("ip", "-batch", write(t, h, lines.String()))
		},
		func(t *testing.T, h *lab.Host, words string) string {
			return h.Must("ip", append([]string{"xfrm"}, strings.Fields(words)...)...)
		},
	},
}

func write(t *testing.T, h *lab.Host, script string) string {
	t.Helper()
	file := filepath.Join(h.Dir, "script")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// kernelOf opens a client to the kernel, in the host's network namespace.
func kernelOf(t *testing.T, h *lab.Host) *client.Client {
	t.Helper()
	var c *client.Client
	err := h.Do(func() (err error) {
		c, err = client.Kernel()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// counters of /proc/net/xfrm_stat that are not zero.
func counters(t *testing.T, h *lab.Host) map[string]uint64 {
	t.Helper()
	return decodeCounters(t, espalier(t, h, "-o", "json", "drops"))
}

func decodeCounters(t *testing.T, text string) map[string]uint64 {
	t.Helper()
	var view struct {
		Drops []struct {
			Reason, Counter string
			Packets         uint64
		}
	}
	if err := json.Unmarshal([]byte(text), &view); err != nil || len(view.Drops) == 0 {
		t.Fatalf("drops: %v in %s", err, text)
	}
	found := make(map[string]uint64)
	for _, d := range view.Drops {
		if d.Packets > 0 {
			found[d.Counter] = d.Packets
		}
	}
	return found
}
