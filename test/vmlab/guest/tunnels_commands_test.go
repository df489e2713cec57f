package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/host"
	"espalier/test/lab"
	"espalier/xfrm"
)

// The commands that people give, from host A, on the lab's NIC: the whole program with its keepers, the other host
// reached by what stands for ssh.
func TestTunnelsByCommands(t *testing.T) {
	l := newNICLab(t, "p4p1")
	reachable(t, l.Hosts()...)
	t.Cleanup(func() { endKeepers(t) })
	file := write(t, l.A, oneTunnel("offload: auto"))
	command := func(args ...string) lab.Result {
		t.Helper()
		start := time.Now()
		r := l.A.Command(self, args...)
		t.Logf("espalier %s: exit status %d after %s\n%s%s", strings.Join(args, " "), r.Code, time.Since(start).Round(time.Millisecond), r.Stdout, r.Stderr)
		if r.Code != 0 {
			t.FailNow()
		}
		return r
	}

	// Set up, and new keys: what is printed ends with verdicts. A slow machine may have seen too little of some.
	r := command("apply", file, "--grace", "0s")
	if !strings.HasSuffix(r.Stdout, "\nIPSec tunnel configured successfully\n") {
		t.Error("the last line is another one")
	}
	before := l.sas(t, l.A)
	for hardware, tries := onHardware(r), 1; ; tries++ {
		r = command("rotate", file, "--grace", "0s")
		if hardware = hardware || onHardware(r); hardware {
			break
		}
		if tries == 5 {
			t.Fatal("never all four SAs are HARDWARE")
		}
	}
	after := l.sas(t, l.A)
	if len(after) != 2 || onNICs(after) != 2 || slices.ContainsFunc(before, func(old *xfrm.State) bool { return old.SPI == after[0].SPI || old.SPI == after[1].SPI }) {
		t.Errorf("host A has %v, and had %v", after, before)
	}
	for end, h := range l.Hosts() {
		for _, sa := range l.sas(t, h) {
			direction := map[bool]string{true: "in", false: "out"}[sa.Dst == addresses[end][0].Addr()]
			if w := engineWork(t, end, direction, uint32(sa.SPI)); w.encrypted == 0 || w.untouched+w.refused > 0 {
				t.Errorf("host %s, SA %s: in truth the NIC has done %+v", h.Name, sa.ID(), w)
			}
		}
	}
	if r := command("apply", file); !strings.Contains(r.Stdout, "nothing to change") {
		t.Error("the same file changes something")
	}

	var status statusView
	r = command("status", "-o", "json")
	if err := json.Unmarshal([]byte(r.Stdout), &status); err != nil || len(status.Pairs) != 1 || status.Pairs[0].Out == nil || status.Pairs[0].In == nil {
		t.Errorf("status: %v, %+v", err, status)
	}

	// Away with it. Keepers stay a while, for a coordinator that asks again.
	command("down", file)
	l.mustBeEmpty(t)
}

var hardwareSA = regexp.MustCompile(`(?m)^db +\S+ +(in|out) 0x.*\bHARDWARE +crypto\b`)

// onHardware reports whether that is the verdict on both SAs of both hosts.
func onHardware(r lab.Result) bool { return len(hardwareSA.FindAllString(r.Stdout, -1)) == 4 }

// endKeepers ends the processes that changes have left for their end, so that their files can go.
func endKeepers(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(line, []byte(host.KeeperCommand)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil {
			err = unix.Kill(pid, unix.SIGKILL)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			t.Error(err)
		}
	}
}
