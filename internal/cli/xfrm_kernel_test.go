package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"espalier/internal/netns"
)

// TestXfrmKernel programs the policies of an empty namespace's kernel through the whole
// command, and compares with what ip prints of them.
func TestXfrmKernel(t *testing.T) {
	ip, err := exec.LookPath("ip")
	if err != nil || os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs iproute2 and root")
		}
		t.Skip("needs iproute2 and root")
	}
	t.Setenv("ESPALIER_SAD", "")
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	espalier := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		err := ns.Do(func() error {
			code = Main(t.Context(), append([]string{"xfrm"}, args...), strings.NewReader(""), &out, &errs)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return code, out.String(), errs.String()
	}
	script := filepath.Join(t.TempDir(), "policies.sh")
	const policies = `ip xfrm policy add src 192.168.1.64 dst 192.168.1.65 dir out tmpl src 192.168.1.64/24 dst 192.168.1.65/24 proto esp reqid 0x28f39549 mode transport
sudo ip xfrm policy add src 10.0.0.0/8 proto udp dport 53 dir fwd action block flag icmp localok # DNS
policy add dst 2001:db8::/32 proto ipv6-icmp type 135 dir in mark 3 if_id 9 tmpl dst 2001:db8::1 src ::1 proto esp mode tunnel
`
	if err := os.WriteFile(script, []byte(policies), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := espalier("-batch", script); code != 0 || stderr != "sad: kernel (no device has a socket in this network namespace)\n" {
		t.Fatalf("batch: exit %d: %s", code, stderr)
	}
	for _, options := range []string{"", "-s", "-o", "-s -o"} {
		cmd := exec.Command(ip, append(strings.Fields(options), "xfrm", "policy", "list")...)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := ns.Start(cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		want := out.String()
		_, got, _ := espalier(append(strings.Fields(options), "policy", "list")...)
		if got != want || !strings.Contains(got, "dst 2001:db8::/32") {
			t.Errorf("%s: got\n%s\nip prints\n%s", options, got, want)
		}
	}
	for _, tt := range []struct {
		words  string
		code   int
		stdout string
	}{
		{"policy count", 0, "\t SPD IN  1 OUT 1 FWD 1\n"},
		{"state count", 0, "\t SAD count 0\n"},
		{"policy add src 192.168.1.64 dst 192.168.1.65 dir out", 2, ""},
		{"policy delete src 192.168.1.64 dst 192.168.1.65 dir out", 0, ""},
		{"policy get src 192.168.1.64 dst 192.168.1.65 dir out", 2, ""},
		{"policy deleteall dir fwd", 0, ""},
		{"policy count", 0, "\t SPD IN  1 OUT 0 FWD 0\n"},
		{"policy flush", 0, ""},
		{"policy list", 0, ""},
		{"state flush", 0, ""},
		{"state delete dst 10.0.0.1 proto esp spi 7", 2, ""},
	} {
		if code, stdout, stderr := espalier(strings.Fields(tt.words)...); code != tt.code || stdout != tt.stdout {
			t.Errorf("%s: exit %d, %q; want %d, %q: %s", tt.words, code, stdout, tt.code, tt.stdout, stderr)
		}
	}
}
