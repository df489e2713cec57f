package witness

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
	"espalier/test/tshark"
)

// demoReport is what this test reads of `espalier demo -o json`.
type demoReport struct {
	Schema string
	OK     bool
	Wire   struct {
		ESP, Cleartext uint64
		Dropped        uint64 `json:"tap_dropped"`
	}
	SAs []struct{ SPI string }
}

// runDemo runs the demo, which writes capture and keys; pid is in the identifiers of its echo
// requests.
func runDemo(t *testing.T, capture, keys string, flags ...string) (r demoReport, pid int) {
	t.Helper()
	args := append([]string{"demo", "-o", "json", "--bytes", "1MiB", "--pcap", capture, "--keys", keys}, flags...)
	cmd := exec.Command(lab.Binary(t), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, steps bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &steps
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer end.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, steps.String())
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return r, cmd.Process.Pid
}

// TestTsharkReadsDemo: what `demo --pcap --keys` writes is all that tshark needs.
func TestTsharkReadsDemo(t *testing.T) {
	lab.Root(t)
	lab.Tools(t, "tshark")
	for _, tt := range []struct {
		flags string
		inner []string // protocols right inside of ESP
		outer string   // a part of all protocols
		esn   bool
	}{
		{"--mode transport", []string{"icmp", "tcp", "icmpv6"}, "ip:esp:icmp", false},
		{"--mode tunnel", []string{"ip", "ipv6"}, "ip:esp:ip:icmp", false},
		{"--mode transport --encap udp", []string{"icmp", "tcp", "icmpv6"}, "ipv6:udp:udpencap:esp:tcp", false},
		{"--mode tunnel --encap udp", []string{"ip", "ipv6"}, "ipv6:udp:udpencap:esp:ipv6:tcp", false},
		{"--mode tunnel --esn on", []string{"ip", "ipv6"}, "ip:esp:ip:icmp", true},
	} {
		t.Run(strings.ReplaceAll(strings.ReplaceAll(tt.flags, "--", ""), " ", "-"), func(t *testing.T) {
			dir := t.TempDir()
			capture, table := filepath.Join(dir, "wire.pcap"), filepath.Join(dir, "esp_sa")
			report, pid := runDemo(t, capture, table, strings.Fields(tt.flags)...)
			if !report.OK || report.Wire.Cleartext != 0 || report.Wire.Dropped != 0 {
				t.Fatalf("report: %+v", report)
			}
			if info, err := os.Stat(table); err != nil || info.Mode() != 0o600 {
				t.Errorf("the keys' file: %v, %v", info.Mode(), err)
			}
			keys, err := os.ReadFile(table)
			if err != nil {
				t.Fatal(err)
			}
			frames := tshark.Read(t, capture, keys)
			checkDemo(t, frames, report, pid, tt.inner, tt.esn)
			if !anyContains(frames, tt.outer) {
				t.Errorf("no packet has %q", tt.outer)
			}
		})
	}
}

func checkDemo(t *testing.T, frames []tshark.Frame, report demoReport, pid int, inner []string, esn bool) {
	t.Helper()
	all, esp := tshark.Tally(frames)
	if uint64(esp) != report.Wire.ESP {
		t.Errorf("tshark sees %d ESP packets, the demo saw %d", esp, report.Wire.ESP)
	}
	if len(all) != 4 {
		t.Errorf("%d SPIs, want one for each family and direction", len(all))
	}
	found := map[string]bool{}
	echoes, tcp := map[int]int{}, 0
	for spi, s := range all {
		if !esn && (s.Good != s.Frames || s.Bad != 0) {
			t.Errorf("SPI %#x: of %d ICVs tshark calls %d good, %d bad", spi, s.Frames, s.Good, s.Bad)
		}
		for protocol := range s.Inner {
			found[protocol] = true
		}
		for key, n := range s.Echoes {
			if key[1] != pid&0xffff {
				t.Errorf("echo messages of type %d with identifier %d", key[0], key[1])
			}
			echoes[key[0]] += n
		}
		tcp += s.TCP
	}
	for _, protocol := range inner {
		if !found[protocol] {
			t.Errorf("no %s inside of ESP", protocol)
		}
		delete(found, protocol)
	}
	if len(found) > 0 {
		t.Errorf("inside of ESP were also %v", found)
	}
	for _, kind := range []int{8, 0, 128, 129} {
		if echoes[kind] != 6 { // three each way
			t.Errorf("%d echo messages of type %d", echoes[kind], kind)
		}
	}
	if tcp < 4<<20 {
		t.Errorf("%d bytes of TCP in four transfers of 1 MiB", tcp)
	}
}

func anyContains(frames []tshark.Frame, protocols string) bool {
	for _, f := range frames {
		if strings.Contains(f.Protocols, protocols) {
			return true
		}
	}
	return false
}
