package tshark

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Frame is what tshark makes of one packet of a capture.
type Frame struct {
	Protocols string // such as raw:ip:esp:icmp:data
	SPI       uint32 // 0: not ESP
	Good, Bad bool   // the ICV
	Echo      int    // ICMP type of an echo message, else -1
	ID        int    // of that
	TCP       int    // bytes of TCP payload
}

// Inner are the protocols inside of ESP.
func (f *Frame) Inner() string {
	_, inner, _ := strings.Cut(f.Protocols, ":esp:")
	return inner
}

// fields are in the order that parse reads them.
var fields = []string{
	"frame.protocols", "esp.spi", "esp.icv_good", "esp.icv_bad",
	"icmp.type", "icmp.ident", "icmpv6.type", "icmpv6.echo.identifier", "tcp.len",
}

// Read dissects the capture with the keys of an esp_sa table (see Keys), which tshark finds in a
// configuration directory of its own.
func Read(t testing.TB, capture string, keys []byte) []Frame {
	t.Helper()
	config := t.TempDir()
	if err := os.WriteFile(filepath.Join(config, "esp_sa"), keys, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-n", "-r", capture, "-T", "fields", "-E", "occurrence=f",
		"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tshark", args...)
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+config)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("tshark: %v\n%s", err, complaint.String())
	}
	if strings.Contains(complaint.String(), "esp_sa") && !strings.Contains(string(keys), esnColumn) {
		t.Errorf("tshark does not like the keys: %s", complaint.String())
	}
	var frames []Frame
	for line := range strings.Lines(out.String()) {
		frames = append(frames, parse(t, strings.TrimSuffix(line, "\n")))
	}
	return frames
}

func parse(t testing.TB, line string) Frame {
	t.Helper()
	v := strings.Split(line, "\t")
	if len(v) != len(fields) {
		t.Fatalf("tshark printed %q", line)
	}
	number := func(s string) int {
		if s == "" {
			return 0
		}
		n, err := strconv.ParseUint(s, 0, 32)
		if err != nil {
			t.Fatalf("tshark printed %q: %v", line, err)
		}
		return int(n)
	}
	f := Frame{Protocols: v[0], SPI: uint32(number(v[1])), Good: v[2] == "1", Bad: v[3] == "1", Echo: -1, TCP: number(v[8])}
	switch {
	case v[5] != "":
		f.Echo, f.ID = number(v[4]), number(v[5])
	case v[7] != "":
		f.Echo, f.ID = number(v[6]), number(v[7])
	}
	return f
}
