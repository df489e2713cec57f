package xfrm

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func needIP(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("ip")
	if err != nil || os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs iproute2 and root")
		}
		t.Skip("needs iproute2 and root")
	}
	return path
}

// What ip writes since 6.2 and 6.11, and older ones do not, which in turn give policies a
// direction of offload.
var newerWords = []*regexp.Regexp{
	regexp.MustCompile(`(dev if[0-9]+(?: dir in| dir out)?) mode (?:crypto|packet)(\\|\n)`),
	regexp.MustCompile(`(dev if[0-9]+) dir out(\\|\n)`),
	regexp.MustCompile(`()\tdir (?:in|out)()(?:\\|\n)`),
}

func asOldIP(text string) string {
	for _, r := range newerWords {
		text = r.ReplaceAllString(text, "$1$2")
	}
	return text
}

// compareWithIP reports the first line that differs, with those around it.
func compareWithIP(t *testing.T, ipText, ours string) {
	t.Helper()
	theirs, own := strings.Split(asOldIP(ipText), "\n"), strings.Split(asOldIP(ours), "\n")
	for i := range max(len(theirs), len(own)) {
		if i < len(theirs) && i < len(own) && theirs[i] == own[i] {
			continue
		}
		from := max(i-8, 0)
		t.Fatalf("line %d: ip prints\n%q\nwe print\n%q", i+1,
			theirs[min(from, len(theirs)):min(i+2, len(theirs))], own[min(from, len(own)):min(i+2, len(own))])
	}
}

// TestPrintAsIP lets ip print random states and policies from a file of messages and
// compares every byte.
func TestPrintAsIP(t *testing.T) {
	ip := needIP(t)
	file := filepath.Join(t.TempDir(), "messages")
	for _, stats := range []bool{false, true} {
		for _, oneLine := range []bool{false, true} {
			t.Run(fmt.Sprintf("stats=%v oneline=%v", stats, oneLine), func(t *testing.T) {
				var messages []byte
				var ours bytes.Buffer
				opt := PrintOptions{Stats: stats, OneLine: oneLine, ShowKeys: true}
				rapid.Check(t, func(t *rapid.T) {
					messages = append(messages, drawPrinted(t, &ours, opt)...)
				})
				if err := os.WriteFile(file, messages, 0o600); err != nil {
					t.Fatal(err)
				}
				args := []string{"xfrm", "monitor", "file", file}
				if stats {
					args = append([]string{"-s"}, args...)
				}
				if oneLine {
					args = append([]string{"-o"}, args...)
				}
				cmd := exec.Command(ip, args...)
				// The interfaces must have no names.
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("ip: %v: %s", err, out)
				}
				if len(out) < 10000 {
					t.Fatalf("ip printed only %d bytes", len(out))
				}
				compareWithIP(t, string(out), ours.String())
			})
		}
	}
}

// drawPrinted prints a random state or policy and returns its message.
func drawPrinted(t *rapid.T, w *bytes.Buffer, opt PrintOptions) []byte {
	var payload []byte
	var err error
	typ := MsgNewSA
	if rapid.Bool().Draw(t, "isPolicy") {
		p := drawPolicy(t)
		printable(&p.Sel)
		p.Current.AddTime = uint64(rapid.Uint32().Draw(t, "added"))
		if p.Offload != nil {
			p.Offload.Ifindex |= 2
		}
		if payload, err = EncodePolicy(p); err != nil {
			t.Fatal(err)
		}
		if p.Type == PolicyMain { // the kernel sends the type always
			payload = append(payload, 10, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		}
		typ = MsgNewPolicy
		if err := FprintPolicy(w, p, opt); err != nil {
			t.Fatal(err)
		}
	} else {
		s := drawReadBack(t)
		if payload, err = EncodeState(s); err != nil {
			t.Fatal(err)
		}
		if s.OutputMark != nil && s.OutputMark.Mask == ^uint32(0) { // the kernel sends it always
			payload = append(payload, 8, 0, 30, 0, 255, 255, 255, 255)
		}
		if err := FprintState(w, s, opt); err != nil {
			t.Fatal(err)
		}
	}
	return AppendMessage(nil, netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ)}, Data: payload})
}

// printable avoids lo, which has a name.
func printable(s *Selector) { s.Interface |= 2 }

// drawReadBack is a state as a dump gives it.
func drawReadBack(t *rapid.T) *State {
	s := drawState(t)
	if s.Replay == nil {
		s.Replay = &ReplayState{Seq: rapid.Uint32().Draw(t, "seq")}
	}
	if s.wideReplay() {
		for range (s.ReplayWindow + 31) / 32 {
			s.Replay.Bitmap = append(s.Replay.Bitmap, rapid.Uint32Range(1, 1<<32-1).Draw(t, "bitmap"))
		}
	} else if b := rapid.Uint32().Draw(t, "bitmap"); b != 0 {
		s.Replay.Bitmap = []uint32{b}
	}
	s.PCPU, s.NATKeepalive, s.MappingThresh = nil, 0, 0 // as ip does not print them
	s.LastUsed = uint64(rapid.Uint32().Draw(t, "lastused"))
	s.Current = LifetimeCurrent{1, 2, uint64(rapid.Uint32().Draw(t, "added")), uint64(rapid.Uint32().Draw(t, "used"))}
	s.Stats = StateStats{1, 2, 3}
	if s.Sel.Family != 0 {
		printable(&s.Sel)
	}
	if s.Offload != nil {
		s.Offload.Ifindex |= 2
	}
	return s
}

// TestPrintPolicyAsKernel compares with what ip shows of policies this kernel holds.
func TestPrintPolicyAsKernel(t *testing.T) {
	ip := needIP(t)
	commands := []string{
		"policy add src 192.168.1.64 dst 192.168.1.65 dir out tmpl src 192.168.1.64/24 dst 192.168.1.65/24 proto esp reqid 0x28f39549 mode transport",
		"policy add dir in priority 9",
		"policy add src 10.0.0.0/8 proto udp dport 53 dir fwd action block flag icmp localok",
		"policy add dst 2001:db8::/32 proto ipv6-icmp type 135 dir out mark 3 if_id 9 tmpl dst 2001:db8::1 src ::1 proto esp mode tunnel reqid 5",
		"policy add src 10.1.0.0/16 dir in tmpl proto esp level use tmpl src 10.0.0.1 dst 10.0.0.2 proto esp spi 7 mode tunnel",
	}
	var script strings.Builder
	var ours []string
	for _, c := range commands {
		fmt.Fprintf(&script, "ip xfrm %s || exit 1\n", c)
		var b strings.Builder
		if err := FprintPolicy(&b, parse(t, c).Policy, PrintOptions{}); err != nil {
			t.Fatal(err)
		}
		ours = append([]string{b.String()}, ours...)
	}
	script.WriteString(ip + " xfrm policy list\n")
	cmd := exec.Command("sh", "-c", script.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// The kernel lists by direction: compare the set.
	for _, want := range ours {
		if !strings.Contains("\n"+string(out), "\n"+want) {
			t.Errorf("ip does not print:\n%s\nbut:\n%s", want, out)
		}
	}
	if total := len(strings.Join(ours, "")); total != len(out) {
		t.Errorf("we print %d bytes, ip %d", total, len(out))
	}
}

// TestPrintNewWords pins what the ip on a host may be too old to print.
func TestPrintNewWords(t *testing.T) {
	s := parse(t, addState+"offload dev p4p1 dir in replay-window 32").State
	for _, tt := range []struct {
		flags OffloadFlag
		want  string
	}{
		{OffloadInbound, "\tcrypto offload parameters: dev p4p1 dir in mode crypto\n\tdir in\n"},
		{OffloadPacket, "\tcrypto offload parameters: dev p4p1 dir out mode packet\n\tdir in\n"},
	} {
		s.Offload.Flags = tt.flags
		var b strings.Builder
		if err := FprintState(&b, s, PrintOptions{InterfaceName: func(i int) string { return "p4p" + fmt.Sprint(i-3) }}); err != nil {
			t.Fatal(err)
		}
		want := "src 10.0.0.1 dst 10.0.0.2\n\tproto esp spi 0x00000001 reqid 0 mode transport\n\treplay-window 32 \n" +
			"\taead rfc4106(gcm(aes)) <<Keys hidden>> 128\n" + tt.want
		if b.String() != want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), want)
		}
	}
}

// No way of printing shows a key unless asked to.
func TestPrintHidesKeys(t *testing.T) {
	s := parse(t, addState).State
	for _, opt := range []PrintOptions{{}, {Stats: true}, {OneLine: true}} {
		var b strings.Builder
		if err := FprintState(&b, s, opt); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), hexKey[:8]) || !strings.Contains(b.String(), keysHidden) {
			t.Error(b.String())
		}
	}
	line := FormatState(s, FormatOptions{})
	if strings.Contains(line, hexKey[:8]) || strings.Contains(fmt.Sprintf("%+v %#v", s, s), hexKey[:8]) {
		t.Error("the key shows")
	}
	lines, err := ParseScript(strings.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(lines[0].Words, numberedEnv); err == nil {
		t.Errorf("a command with a hidden key is accepted: %s", line)
	}
	line = FormatState(s, FormatOptions{KeyFiles: map[string]string{"aead": "/etc/key"}})
	if got := parse(t, line).State.AEAD.Key.Len(); got != 36 {
		t.Errorf("key of %d bytes from %s", got, line)
	}
}

func TestPrintWithoutAddresses(t *testing.T) {
	p := &Policy{Sel: Selector{Family: unix.AF_INET6}, Limits: NoLimits, Tmpls: []Tmpl{{Proto: 50}}}
	var b strings.Builder
	if err := FprintPolicy(&b, p, PrintOptions{}); err != nil {
		t.Fatal(err)
	}
	want := "src ::/0 dst ::/0 \n\tdir in priority 0 ptype main \n\ttmpl src :: dst ::\n\t\tproto esp reqid 0 mode transport\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	s := &State{Dst: netip.MustParseAddr("::1"), Proto: 50, AEAD: &AEAD{Name: "a", KeyBits: 288}}
	b.Reset()
	if err := FprintState(&b, s, PrintOptions{ShowKeys: true}); err != nil || !strings.Contains(b.String(), keysHidden) {
		t.Errorf("a state whose key was withheld: %v, %s", err, b.String())
	}
}
