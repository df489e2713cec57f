package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"espalier/probe"
	"espalier/probe/probetest"
)

func check(w probe.Weight, a probe.Answer, title, why, fix string) probe.Check {
	return probe.Check{ID: "x." + title, Title: title, Weight: w, Answer: a, Why: why, Fix: fix, Evidence: []probe.Evidence{{Source: "/proc/" + title, Value: "value of " + title}}}
}

// sample is a report with an answer of each kind.
func sample() probe.Report {
	r := probe.Report{
		Host: "db1", Kernel: "6.12.117-amd64", Distribution: "Debian GNU/Linux 13 (trixie)",
		Layers: []probe.Layer{
			{Name: "kernel", Summary: "Linux 6.12", Checks: []probe.Check{
				check(probe.Required, probe.Yes, "INET_ESP", "built in", ""),
				check(probe.Required, probe.Yes, "XFRM_USER", "built in", ""),
				check(probe.Warns, probe.No, "INET6_ESP", "kernel built without INET6_ESP", "Build it with INET6_ESP."),
				check(probe.Informs, probe.Yes, "release", "6.12", ""),
				check(probe.Informs, probe.No, "packet", "too old", ""),
			}},
			{Name: "CPU", Summary: "AES-128-GCM 31.2 Gb/s", Checks: []probe.Check{check(probe.Informs, probe.Yes, "AES-128-GCM", "31.2 Gb/s", "")}},
		},
		Devices: []probe.Device{{Name: "p4p1", Layers: []probe.Layer{
			{Name: "kernel", Checks: []probe.Check{check(probe.Required, probe.No, "MLX5_EN_IPSEC", "kernel built without MLX5_EN_IPSEC", "Take another kernel.")}},
			{Name: "NIC", Summary: "ConnectX-7", Checks: []probe.Check{
				check(probe.Required, probe.Unknown, "firmware", "may not be asked", ""),
				check(probe.Warns, probe.No, "speed", "slow", "Take another kernel."),
			}},
		}}},
		Unseen: []string{"/dev/kmsg", "ethtool -S p4p1"},
	}
	r.Conclude()
	return r
}

func text(t *testing.T, r probe.Report, wide bool) string {
	t.Helper()
	var b bytes.Buffer
	if err := writeReport(&b, screen{width: 100}, r, wide); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
		if strings.TrimRight(line, " \n") != strings.TrimRight(line, "\n") {
			t.Errorf("blanks at the end of %q", line)
		}
	}
	return b.String()
}

// TestDoctorScreen compares a whole screen: the verdict first, one branch a layer, what is missing
// with its evidence, what is there without, and each fix once, what matters most first.
func TestDoctorScreen(t *testing.T) {
	const want = `p4p1: crypto offload NOT READY: kernel built without MLX5_EN_IPSEC

db1, Debian GNU/Linux 13 (trixie)
├─ ✗ kernel  Linux 6.12
│  ├─ ✗ MLX5_EN_IPSEC  kernel built without MLX5_EN_IPSEC
│  │    /proc/MLX5_EN_IPSEC: value of MLX5_EN_IPSEC
│  ├─ ! INET6_ESP      kernel built without INET6_ESP
│  │    /proc/INET6_ESP: value of INET6_ESP
│  ├─ - no: packet
│  └─ ✓ INET_ESP, XFRM_USER
├─ ? NIC     ConnectX-7
│  ├─ ? firmware  may not be asked
│  │    /proc/firmware: value of firmware
│  └─ ! speed     slow
│       /proc/speed: value of speed
└─ ✓ CPU     AES-128-GCM 31.2 Gb/s

What to do
 1. Take another kernel.
 2. Build it with INET6_ESP.

not seen without root: /dev/kmsg, ethtool -S p4p1
`
	if got := text(t, sample(), false); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	wide := text(t, sample(), true)
	for _, hidden := range []string{"release", "31.2 Gb/s\n", "/proc/AES-128-GCM: value of", "/proc/XFRM_USER: value of"} {
		if !strings.Contains(wide, hidden) {
			t.Errorf("wide output without %q:\n%s", hidden, wide)
		}
	}
}

// TestDoctorSeveral: several devices, or none.
func TestDoctorSeveral(t *testing.T) {
	r := sample()
	r.Devices = append(r.Devices, probe.Device{Name: "p4p2", Layers: []probe.Layer{{Name: "NIC", Summary: "ConnectX-6 Dx", Checks: []probe.Check{check(probe.Required, probe.Yes, "product", "offloads", "")}}}})
	r.Conclude()
	got := text(t, r, false)
	for _, want := range []string{
		"p4p1: crypto offload NOT READY: kernel built without MLX5_EN_IPSEC\np4p2: crypto offload READY, but kernel built without INET6_ESP\n\ndb1,",
		"├─ p4p1\n│  ├─ ✗ kernel  kernel built without MLX5_EN_IPSEC\n", "├─ p4p2\n│  └─ ✓ NIC  ConnectX-6 Dx\n", "└─ ✓ CPU",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	r.Devices, r.AsRoot = nil, true
	r.Conclude()
	got = text(t, r, false)
	if !strings.HasPrefix(got, "db1: crypto offload READY, but kernel built without INET6_ESP\n") || !strings.Contains(got, "not seen, although root: ") {
		t.Error(got)
	}
}

// TestDoctorWraps: long reasons and fixes stay within the width, below where they began.
func TestDoctorWraps(t *testing.T) {
	r := sample()
	long := strings.TrimSpace(strings.Repeat("many words ", 40))
	r.Devices[0].Layers[1].Checks[1].Why, r.Devices[0].Layers[1].Checks[1].Fix, r.Devices[0].Reason = long, long, long
	for _, line := range []string{"NOT READY: many words", "\n  many words", "│  └─ ! speed     many words", "\n│                 words many", "\n 3. many words", "\n    "} {
		if got := text(t, r, false); !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
}

// TestDoctorRun: exit codes and JSON of hosts without a NIC, and of a device that is not there.
func TestDoctorRun(t *testing.T) {
	var out bytes.Buffer
	d := doctor{as: formatJSON, system: func() probe.System {
		return probetest.Load(t, "distro/no-esp", "links: {lo: {index: 1, loopback: true}}")
	}}
	if code := exitCode(d.run(context.Background(), &out)); code != 3 {
		t.Errorf("exit %d, want 3", code)
	}
	var view struct {
		Schema, Host, Readiness, Reason string
		OK                              *bool
		Devices                         []any
		Layers                          []struct {
			Name   string
			Checks []struct{ ID, Answer, Weight, Why, Fix string }
		}
	}
	if err := json.Unmarshal(out.Bytes(), &view); err != nil {
		t.Fatal(err)
	}
	if view.Schema != "espalier/doctor/v1" || view.OK == nil || *view.OK || view.Host != "db1" || view.Readiness != "NOT READY" ||
		view.Reason != "kernel built without XFRM_OFFLOAD" || view.Devices == nil || len(view.Layers) < 2 || len(view.Layers[0].Checks) < 10 {
		t.Errorf("%s", out.String())
	}
	for _, c := range view.Layers[0].Checks {
		if c.ID == "kernel.xfrm-offload" && (c.Answer != "no" || c.Weight != "required" || c.Fix == "") {
			t.Errorf("%+v", c)
		}
	}
	d.devices = []string{"p9p9"}
	err := d.run(context.Background(), &out)
	if missing := new(probe.NoDeviceError); exitCode(err) != exitUsage || !errors.As(err, &missing) {
		t.Errorf("a device that is not there: %v", err)
	}
	for readiness, code := range map[probe.Readiness]int{probe.Ready: 0, probe.NotReady: 3, probe.Unclear: 4} {
		if got := exitCode(readinessExit(readiness)); got != code {
			t.Errorf("%s: exit %d, want %d", readiness, got, code)
		}
	}
}

// TestDoctorFlags: what is no format is a usage error.
func TestDoctorFlags(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := Main(context.Background(), []string{"doctor", "-o", "xml"}, nil, &out, &errOut); code != exitUsage || !strings.Contains(errOut.String(), "json") {
		t.Errorf("exit %d: %s", code, errOut.String())
	}
}

// TestPaint: colours only where they were asked for, and never in the width of a line.
func TestPaint(t *testing.T) {
	if got := (screen{}).paint(red, "✗"); got != "✗" {
		t.Errorf("%q", got)
	}
	if got := (screen{colour: true}).paint(red, "✗"); got != "\x1b[31m✗\x1b[0m" {
		t.Errorf("%q", got)
	}
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"a bb  ccc dddddddd", 8, "a bb ccc|dddddddd"}, {"a ddddddddddd e", 8, "a|dddddddd|ddd e"}, {"/boot/config-6.8.0-88", 10, "/boot/|config-6.|8.0-88"},
		{strings.Repeat("d", 70), 65, strings.Repeat("d", 70)}, {"", 8, ""}, {"ä–ö ✓✓✓✓✓✓✓✓✓", 8, "ä–ö|✓✓✓✓✓✓✓✓|✓"},
	} {
		if got := strings.Join(wrap(c.text, c.width), "|"); got != c.want {
			t.Errorf("%q in %d columns: %q, want %q", c.text, c.width, got, c.want)
		}
	}
	if n := columns((screen{colour: true}).paint(red, "✗ no")); n != 4 {
		t.Errorf("%d columns", n)
	}
	items := []string{"aaaa", "bbbb", "cccc", "dddd"}
	for width, want := range map[int]string{22: "aaaa, bbbb, cccc, dddd", 21: "aaaa, bbbb and 2 more", 20: "aaaa and 3 more", 14: "4 answers"} {
		if got := fitting(items, width); got != want {
			t.Errorf("%d columns: %q, want %q", width, got, want)
		}
	}
}

// TestDoctorHosts: exit codes and screens of whole hosts. Whatever the NIC, each screen fits, and says
// the verdict of the exit code first.
func TestDoctorHosts(t *testing.T) {
	const secret = "files: {boot/config-6.8.0-88-generic: !denied '', proc/kallsyms: !denied '', lib/modules/6.8.0-88-generic: !denied ''}"
	for _, c := range []struct {
		parts []string
		code  int
		first string // line
	}{
		{[]string{"distro/ubuntu-24.04", "nic/connectx-7"}, 0, "p4p1: crypto offload READY"},
		{[]string{"distro/ubuntu-24.04", "nic/connectx-7", "trap/nft-drop-esp", "trap/charon"}, 0, "p4p1: crypto offload READY, but ESP coming in over IPv4 is dropped by inet filter input; and 2"},
		{[]string{"distro/debian-13", "nic/connectx-7"}, 3, "p4p1: crypto offload NOT READY: kernel built without MLX5_EN_IPSEC"},
		{[]string{"distro/ubuntu-24.04", "nic/connectx-7", "kernel/not-root", secret}, 4, "p4p1: crypto offload UNKNOWN: whether the kernel has XFRM_OFFLOAD is not known:"},
		{[]string{"distro/ubuntu-24.04", "nic/virtio"}, 3, "db1: crypto offload NOT READY: no NIC that could offload ESP"},
		{[]string{"distro/no-esp", "nic/virtio"}, 3, "db1: crypto offload NOT READY: kernel built without XFRM_OFFLOAD"},
	} {
		code, out := runDoctor(t, formatText, c.parts...)
		if first, _, _ := strings.Cut(out, "\n"); code != c.code || !strings.HasPrefix(first, c.first) {
			t.Errorf("%v: exit %d, %q; want %d, %q", c.parts, code, first, c.code, c.first)
		}
	}
	words := map[int]string{0: " READY", 3: " NOT READY: ", 4: " UNKNOWN: "}
	screens(t, "distro/no-esp", "nic/virtio")
	screens(t, "distro/no-esp", "kernel/container", "kernel/not-root", "trap/denied", "nic/connectx-7")
	for _, nic := range probetest.Parts(t, "nic") {
		screens(t, "distro/rhel-9", nic)
		for _, as := range []format{formatText, formatWide} {
			code, out := runDoctor(t, as, "distro/rhel-9", nic)
			if first, _, _ := strings.Cut(out, "\n"); !strings.Contains(first, words[code]) {
				t.Errorf("%s: exit %d: %s", nic, code, first)
			}
			for line := range strings.Lines(out) {
				if n := columns(strings.TrimRight(line, "\n")); n > 100 && strings.Count(strings.TrimLeft(line, "│ "), " ") > 1 {
					t.Errorf("%s: %d columns: %s", nic, n, line)
				}
			}
		}
		code, out := runDoctor(t, formatJSON, "distro/rhel-9", nic)
		var view struct{ OK *bool }
		if err := json.Unmarshal([]byte(out), &view); err != nil || view.OK == nil || *view.OK != (code == 0) {
			t.Errorf("%s: exit %d, %v: %s", nic, code, err, out)
		}
	}
}

// screens: a host with one NIC fits on a screen, and into every width.
func screens(t *testing.T, parts ...string) {
	t.Helper()
	r, err := probe.Examine(context.Background(), probetest.Load(t, append([]string{"base"}, parts...)...), nil)
	if err != nil {
		t.Fatal(err)
	}
	for width, most := range map[int]int{100: 30, 80: 32, 60: 40, 40: 60} {
		var b strings.Builder
		if err := writeReport(&b, screen{width: width}, r, false); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(b.String(), "\n"); n > most {
			t.Errorf("%v: %d lines of %d columns\n%s", parts, n, width, b.String())
		}
		for line := range strings.Lines(b.String()) {
			if columns(strings.TrimRight(line, "\n")) > width {
				t.Errorf("%v: more than %d columns: %s", parts, width, line)
			}
		}
	}
}

func runDoctor(t *testing.T, as format, parts ...string) (code int, out string) {
	t.Helper()
	var b bytes.Buffer
	d := doctor{as: as, system: func() probe.System { return probetest.Load(t, append([]string{"base"}, parts...)...) }}
	return exitCode(d.run(context.Background(), &b)), b.String()
}

// TestNarrowScreen: however narrow, no line is longer than the terminal.
func TestNarrowScreen(t *testing.T) {
	r := sample()
	for _, width := range []int{40, 50, 60, 80, 120} {
		var b strings.Builder
		screen{width: width}.write(&b, reportTree(r, true), "")
		for line := range strings.Lines(b.String()) {
			if n := columns(strings.TrimRight(line, "\n")); n > width {
				t.Errorf("%d columns of %d: %s", n, width, line)
			}
		}
		if !strings.Contains(strings.Join(strings.Fields(b.String()), " "), "kernel built without") {
			t.Errorf("%d columns: a text is missing:\n%s", width, b.String())
		}
	}
}

// TestDoctorTogether: answers that come from the same stand in one line, with the worst of their marks; evidence is told
// once, and some of it.
func TestDoctorTogether(t *testing.T) {
	option := func(w probe.Weight, name string) probe.Check {
		c := check(w, probe.No, name, "kernel built without "+name, "Build it.")
		c.Cause, c.Evidence = "not in this kernel", []probe.Evidence{{Source: "/proc/config.gz", Value: "# CONFIG_" + name + " is not set"}}
		return c
	}
	r := probe.Report{Host: "db1", Layers: []probe.Layer{{Name: "kernel", Summary: "Linux 6.12", Checks: []probe.Check{
		option(probe.Warns, "INET6_ESP"), option(probe.Required, "INET_ESP"), option(probe.Informs, "CRYPTO_CTR"), check(probe.Required, probe.Yes, "XFRM", "built in", ""),
	}}, {Name: "NIC", Checks: []probe.Check{{
		ID: "nic.candidate", Title: "a NIC", Weight: probe.Required, Answer: probe.No, Why: "no NIC",
		Evidence: []probe.Evidence{{Source: "eth0", Value: "virtio"}, {Source: "eth1", Value: "virtio"}, {Source: "eth2", Value: "virtio"}, {Source: "eth3", Value: "virtio"}, {Source: "eth4", Value: "e810"}, {Source: "eth5", Value: "x710"}},
	}}}}}
	r.Conclude()
	const want = `db1: crypto offload NOT READY: kernel built without INET_ESP

db1
├─ ✗ kernel  Linux 6.12
│  ├─ ✗ INET6_ESP, INET_ESP: not in this kernel
│  │    /proc/config.gz: # CONFIG_INET6_ESP is not set and 1 more
│  ├─ - no: CRYPTO_CTR
│  └─ ✓ XFRM
└─ ✗ NIC     no NIC
     eth0, eth1, eth2 and 1 more: virtio
     and 2 more (-o wide)

What to do
 1. Build it.
`
	if got := text(t, r, false); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestDoctorDocument: docs/doctor.md shows a screen as it is; UPDATE=1 writes it.
func TestDoctorDocument(t *testing.T) {
	const file, before, behind = "../../docs/doctor.md", "    $ espalier doctor\n", "\nRead it from the top"
	sys := probetest.Load(t, "base", "distro/ubuntu-24.04", "kernel/blocked", "nic/connectx-6-dx", "trap/nft-drop-esp")
	sys.Speed = func(context.Context) (probe.Speed, error) {
		return probe.Speed{Implementation: "vaes512", Cores: 64, Gbps: map[int]float64{128: 71.3, 256: 58.8}}, nil
	}
	var b bytes.Buffer
	d := doctor{system: func() probe.System { return sys }}
	if code := exitCode(d.run(context.Background(), &b)); code != 3 {
		t.Errorf("exit %d", code)
	}
	document, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(document), before)
	_, tail, more := strings.Cut(rest, behind)
	if !ok || !more {
		t.Fatal("there is no place for the screen")
	}
	head += before
	for line := range strings.Lines(b.String()) {
		if line = strings.TrimRight("    "+line, " \n"); line != "" {
			head += line
		}
		head += "\n"
	}
	head += behind + tail
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(head), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if head != string(document) {
		t.Errorf("the screen is now\n%s", b.String())
	}
}
