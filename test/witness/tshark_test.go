package witness

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
)

// frame is what tshark makes of one packet of a capture.
type frame struct {
	protocols string // such as raw:ip:esp:icmp:data
	spi       uint32 // 0: not ESP
	good, bad bool   // the ICV
	echo      int    // ICMP type of an echo message, else -1
	id        int    // of that
	tcp       int    // bytes of TCP payload
}

// inner are the protocols inside of ESP.
func (f *frame) inner() string {
	_, inner, _ := strings.Cut(f.protocols, ":esp:")
	return inner
}

// tsharkFields are in the order that parseFrame reads them.
var tsharkFields = []string{
	"frame.protocols", "esp.spi", "esp.icv_good", "esp.icv_bad",
	"icmp.type", "icmp.ident", "icmpv6.type", "icmpv6.echo.identifier", "tcp.len",
}

// tshark dissects the capture with the keys of an esp_sa table, which it finds in a
// configuration directory of its own.
func tshark(t *testing.T, capture string, keys []byte) []frame {
	t.Helper()
	config := t.TempDir()
	if err := os.WriteFile(filepath.Join(config, "esp_sa"), keys, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-n", "-r", capture, "-T", "fields", "-E", "occurrence=f",
		"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE"}
	for _, f := range tsharkFields {
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
	var frames []frame
	for line := range strings.Lines(out.String()) {
		frames = append(frames, parseFrame(t, strings.TrimSuffix(line, "\n")))
	}
	return frames
}

func parseFrame(t *testing.T, line string) frame {
	t.Helper()
	v := strings.Split(line, "\t")
	if len(v) != len(tsharkFields) {
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
	f := frame{protocols: v[0], spi: uint32(number(v[1])), good: v[2] == "1", bad: v[3] == "1", echo: -1, tcp: number(v[8])}
	switch {
	case v[5] != "":
		f.echo, f.id = number(v[4]), number(v[5])
	case v[7] != "":
		f.echo, f.id = number(v[6]), number(v[7])
	}
	return f
}

// esnColumn is a column that only newer versions know; the older ones say so and go on.
const esnColumn = "64-bit"

// espSATable is Wireshark's table of the SAs of the pairs. The names of the algorithms are
// those for which tshark verifies the ICV, too.
func espSATable(pairs []lab.Pair) []byte {
	var b bytes.Buffer
	for _, p := range pairs {
		version := "IPv4"
		if p.V6 {
			version = "IPv6"
		}
		for _, sa := range p.SAs() {
			fmt.Fprintf(&b, `"%s","%s","%s","0x%08x","AES-GCM with 16 octet ICV [RFC4106]","0x%s","NULL",""`,
				version, sa.Src, sa.Dst, sa.SPI, hex.EncodeToString(sa.Key))
			if p.ESN {
				fmt.Fprintf(&b, `,"%s"`, esnColumn)
			}
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}
