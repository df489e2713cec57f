package boot_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"espalier/deploy/boot"
	"espalier/guard"
	"espalier/ipsec"
)

// TestMain is the holder's processes, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == boot.HoldCommand {
		var port uint16
		fmt.Sscan(os.Args[3], &port)
		var err error
		if slices.Contains(os.Args, "--supervise") {
			err = boot.Supervise(context.Background(), port, os.Stderr)
		} else {
			err = boot.HoldPort(context.Background(), port, slices.Contains(os.Args, "--detached"), os.Stderr)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inNamespace gives the test a thread in a network namespace of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "network namespaces take root")
	}
	runtime.LockOSThread()
	old, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Set(old); err != nil {
			t.Fatal(err)
		}
		old.Close()
		ns.Close()
		runtime.UnlockOSThread()
	})
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func pair(i int) boot.Pair {
	here, there := netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), netip.AddrFrom4([4]byte{10, 0, byte(i), 2})
	src, dst := netip.PrefixFrom(here, 32), netip.PrefixFrom(there, 32)
	p := boot.Pair{Tunnel: fmt.Sprint("t", i), Local: here, Remote: there}
	for _, d := range []ipsec.Direction{ipsec.Outbound, ipsec.Inbound, ipsec.Forward} {
		p.Policies = append(p.Policies, guard.HostPolicy{Policy: ipsec.Policy{Direction: d, Priority: 100, Selector: ipsec.Selector{Src: src, Dst: dst},
			Processing: []ipsec.Processing{{Mode: ipsec.Transport, RequestID: 7}}, Index: uint32(i), Added: time.Now()}})
		if d == ipsec.Outbound {
			src, dst = dst, src
		}
	}
	return p
}

// place is one for tests, with units that nothing starts.
func place(t *testing.T) *boot.Place {
	dir := t.TempDir()
	return &boot.Place{Dir: filepath.Join(dir, "state"), Units: filepath.Join(dir, "units"), Program: "/usr/bin/true"}
}

func table(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		skip(t, "no nft program: install nftables")
	}
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return string(out)
}

// rebooted takes away what a boot takes away.
func rebooted(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}

func guards(i int) string { return fmt.Sprintf("out protect 10.0.%d.1 > 10.0.%d.2 prio 100", i, i) }
func shuts(i int) string  { return fmt.Sprintf("out discard 10.0.%d.1 > 10.0.%d.2 prio 0", i, i) }

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			text, _ := os.ReadFile(path)
			rel, _ := filepath.Rel(dir, path)
			all[rel] = info.ModTime().String() + string(text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestGuardOutlivesABoot(t *testing.T) {
	inNamespace(t)
	p := place(t)
	if err := p.Install([]boot.Pair{pair(1), pair(2)}); err != nil {
		t.Fatal(err)
	}
	first, link := files(t, filepath.Dir(p.Dir)), filepath.Join(p.Units, "sysinit.target.wants", "espalier-guard.service")
	if to, err := os.Readlink(link); err != nil || to != filepath.Join(p.Units, "espalier-guard.service") {
		t.Errorf("the unit is not enabled: %q, %v", to, err)
	}
	loaded := table(t)
	if !strings.Contains(loaded, guards(1)) || !strings.Contains(loaded, guards(2)) {
		t.Fatalf("the guard is not in force:\n%s", loaded)
	}
	if err := p.Install([]boot.Pair{pair(1), pair(2)}); err != nil || !reflect.DeepEqual(files(t, filepath.Dir(p.Dir)), first) {
		t.Errorf("the same again: %v, or files have been written again", err)
	}
	rebooted(t)
	if found, err := p.Load(nil); !found || err != nil {
		t.Errorf("Load: %v, %v", found, err)
	}
	if again := table(t); again != loaded {
		t.Errorf("after a boot:\n%s\nbefore:\n%s", again, loaded)
	}
	// Of a pair that a boot has taken SAs and policies from, the ssh passes that may bring them back.
	p.Bare = func(q boot.Pair) bool { return q.Remote == pair(2).Remote }
	for i, detours := range [][]guard.Detour{nil, {{Local: pair(2).Local, Remote: pair(2).Remote, Port: 2222, Serves: true}}} {
		second := pair(2)
		second.Detours = detours
		if err := p.Install([]boot.Pair{pair(1), second}); err != nil || table(t) != loaded {
			t.Errorf("ssh passes while nothing is lost: %v\n%s", err, table(t))
		}
		if found, err := p.Load(nil); !found || err != nil || strings.Contains(table(t), "2222") != (i == 1) {
			t.Errorf("after a boot, %d: %v, %v\n%s", i, found, err, table(t))
		}
	}
	p.Bare = nil
	if err := p.Install([]boot.Pair{pair(2)}); err != nil || strings.Contains(table(t), guards(1)) || !strings.Contains(table(t), guards(2)) {
		t.Errorf("with one pair less: %v\n%s", err, table(t))
	}
	if err := errors.Join(p.Install(nil), p.Remove()); err != nil {
		t.Error(err)
	}
	if err := p.DropRotation("/none"); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(p.Dir)); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	if text := table(t); text != "" {
		t.Errorf("left over:\n%s", text)
	}
	if found, err := p.Load(nil); found || err != nil {
		t.Errorf("Load of nothing: %v, %v", found, err)
	}
}

func TestDamagedGuardFilesFailClosed(t *testing.T) {
	three := []boot.Pair{pair(1), pair(2), pair(3)}
	journal := func(bool) ([]boot.Pair, error) { return []boot.Pair{pair(2), pair(9)}, nil }
	edit := func(name string, with func([]byte) []byte) func(*testing.T, *boot.Place) {
		return func(t *testing.T, p *boot.Place) {
			path := filepath.Join(p.Dir, name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, with(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	both := func(with func([]byte) []byte) func(*testing.T, *boot.Place) {
		return func(t *testing.T, p *boot.Place) {
			edit("guard.json", with)(t, p)
			edit("guard-copy.json", with)(t, p)
		}
	}
	half := func(b []byte) []byte { return b[:len(b)/2] }
	nothing := func([]byte) []byte { return nil }
	swap := func(old, with string) func([]byte) []byte {
		return func(b []byte) []byte { return []byte(strings.ReplaceAll(string(b), old, with)) }
	}
	for name, c := range map[string]struct {
		damage   func(*testing.T, *boot.Place)
		fallback func(bool) ([]boot.Pair, error)
		want     []string
		fails    bool
	}{
		"none":                          {func(*testing.T, *boot.Place) {}, nil, []string{guards(1), guards(2), guards(3)}, false},
		"none, and an open change":      {func(*testing.T, *boot.Place) {}, journal, []string{guards(1), guards(2), guards(3), guards(9)}, false},
		"the first half is left":        {edit("guard.json", half), nil, []string{guards(1), guards(2), guards(3)}, true},
		"the file is empty":             {edit("guard.json", nothing), nil, []string{guards(1), guards(2), guards(3)}, true},
		"both are halves":               {both(half), nil, []string{guards(1)}, true},
		"both are halves, journal":      {both(half), journal, []string{guards(1), guards(2), guards(9)}, true},
		"both are empty, journal":       {both(nothing), journal, []string{guards(2), guards(9)}, true},
		"the first line":                {both(swap(`{"espalier_guard"`, `{"xspalier`)), nil, []string{guards(1), guards(2), guards(3)}, true},
		"a line":                        {both(swap(`{"tunnel":"t2"`, `{"tunnel:"t2"`)), nil, []string{guards(1), guards(3)}, true},
		"a policy makes no sense":       {both(swap(`"Direction":`, `"Direction":9`)), nil, []string{shuts(1), shuts(2), shuts(3)}, true},
		"the journal is damaged, too":   {edit("guard.json", half), func(bool) ([]boot.Pair, error) { return nil, errors.New("damaged") }, []string{guards(1), guards(2), guards(3)}, true},
		"of a later version of the app": {both(swap(`"espalier_guard":1`, `"espalier_guard":2`)), journal, []string{guards(2), guards(9)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			inNamespace(t) // each has a goroutine of its own, and so a thread
			p := place(t)
			if err := p.Install(three); err != nil {
				t.Fatal(err)
			}
			rebooted(t)
			c.damage(t, p)
			found, err := p.Load(c.fallback)
			if !found || (err != nil) != c.fails {
				t.Errorf("Load: %v, %v", found, err)
			}
			text := table(t)
			for i := range 10 {
				for _, line := range []string{guards(i), shuts(i)} {
					if strings.Contains(text, line) != slices.Contains(c.want, line) {
						t.Errorf("%q: %v", line, strings.Contains(text, line))
					}
				}
			}
		})
	}
	t.Run("nothing is known", func(t *testing.T) {
		p := place(t)
		if err := p.Install(three); err != nil {
			t.Fatal(err)
		}
		both(nothing)(t, p)
		if found, err := p.Load(nil); !found || err == nil || !strings.Contains(err.Error(), "nothing is known") {
			t.Errorf("Load: %v, %v", found, err)
		}
		if !strings.Contains(table(t), guards(1)) {
			t.Error("what was in force has been taken away")
		}
	})
}

// TestGuardHoldsWhenItCannotBeWritten: a full disk does not leave hosts open.
func TestGuardHoldsWhenItCannotBeWritten(t *testing.T) {
	inNamespace(t)
	p := place(t)
	p.Units = ""
	p.Dir = "/proc/nothing"
	if err := p.Install([]boot.Pair{pair(1)}); err == nil || !strings.Contains(table(t), guards(1)) {
		t.Errorf("Install: %v\n%s", err, table(t))
	}
}

func TestUnitsAreGood(t *testing.T) {
	inNamespace(t)
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze")
	}
	for _, namespace := range []string{"", "/run/netns/blue"} {
		p := place(t)
		p.Namespace = namespace
		p.Environment = []string{`ESPALIER_STATE_DIR=/a "b" %c`}
		if err := errors.Join(p.Install([]boot.Pair{pair(1)}), p.SetRotation(boot.Rotation{File: "/a", Period: time.Minute})); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(p.Units, "espalier-encap-4500.service"), []byte(p.EncapText("/usr/bin/true", 4500)), 0o644); err != nil {
			t.Fatal(err)
		}
		units, _ := filepath.Glob(filepath.Join(p.Units, "espalier-*"))
		if len(units) != 4 {
			t.Errorf("units: %v", units)
		}
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		out, err := exec.CommandContext(ctx, program, append([]string{"verify", "--man=no", "--recursive-errors=no"}, units...)...).CombinedOutput()
		if err != nil || strings.Contains(string(out), filepath.Base(p.Units)) || strings.Contains(string(out), "espalier") {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
	}
}

func TestRotations(t *testing.T) {
	p := place(t)
	set := func(file string, period time.Duration) {
		t.Helper()
		if err := p.SetRotation(boot.Rotation{File: file, Period: period, Arguments: []string{"--ssh-config", "/x"}}); err != nil {
			t.Fatal(err)
		}
	}
	interval := func() string {
		text, _ := os.ReadFile(filepath.Join(p.Units, "espalier-rotate.timer"))
		_, rest, _ := strings.Cut(string(text), "OnUnitActiveSec=")
		value, _, _ := strings.Cut(rest, "\n")
		return value
	}
	set("/etc/a.yaml", time.Hour)
	set("/etc/b.yaml", time.Minute)
	set("/etc/b.yaml", 2*time.Minute)
	if all, err := p.Rotations(); err != nil || len(all) != 2 || interval() != "120s" {
		t.Errorf("%v, %v, every %s", all, err, interval())
	}
	if _, err := os.Stat(filepath.Join(p.Units, "timers.target.wants", "espalier-rotate.timer")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(p.DropRotation("/etc/b.yaml"), p.DropRotation("/etc/b.yaml")); err != nil || interval() != "3600s" {
		t.Errorf("%v, every %s", err, interval())
	}
	if err := p.DropRotation("/etc/a.yaml"); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(p.Dir)); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
	p.Units, p.Why = "", "no systemd here"
	if err := p.SetRotation(boot.Rotation{File: "/a", Period: time.Hour}); err == nil || !strings.Contains(err.Error(), p.Why) {
		t.Error(err)
	}
}

func TestPeriod(t *testing.T) {
	for _, c := range []struct {
		paces []boot.Pace
		want  time.Duration
	}{
		{nil, 0},
		{[]boot.Pace{{}}, 0},
		{[]boot.Pace{{Share: 0.5}}, 132 * time.Second},                          // 2^32 full frames are 528 s at 100 Gb/s
		{[]boot.Pace{{Share: 0.5, BitsPerSecond: 10e9}}, 1321 * time.Second},    // and ten times that at 10
		{[]boot.Pace{{Share: 0.9, BitsPerSecond: 100e9}}, 26 * time.Second},     // the last tenth
		{[]boot.Pace{{Share: 0.999, BitsPerSecond: 400e9}}, 10 * time.Second},   // no less
		{[]boot.Pace{{Share: 0.5, ESN: true, BitsPerSecond: 800e9}}, time.Hour}, // for ages
		{[]boot.Pace{{Share: 0.5, ESN: true, Every: 8 * time.Minute}, {Every: 24 * time.Hour}}, time.Minute},
	} {
		if got := boot.Period(c.paces); got != c.want {
			t.Errorf("%+v: %s, want %s", c.paces, got, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	t.Setenv("ESPALIER_UNIT_DIR", "")
	t.Setenv("ESPALIER_STATE_DIR", "/s")
	find := func() *boot.Place {
		t.Helper()
		p, err := boot.Find("/d")
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := find(); p.Units != "/s/units" || p.Systemd || !slices.Contains(p.Environment, "ESPALIER_STATE_DIR=/s") {
		t.Errorf("%+v", p)
	}
	t.Setenv("ESPALIER_UNIT_DIR", "/u")
	if p := find(); p.Units != "/u" || p.Systemd {
		t.Errorf("%+v", p)
	}
	inNamespace(t)
	_, unreadable := os.Stat("/proc/1/ns/net") // as in some containers
	if p := find(); unreadable == nil && (p.Units != "" || !strings.Contains(p.Why, "no name")) {
		t.Errorf("in a namespace without a name: %+v", p)
	}
	t.Setenv("ESPALIER_UNIT_DIR", "")
	t.Setenv("ESPALIER_STATE_DIR", "")
	if p := find(); p.Units != "" || !strings.Contains(p.Why, "ESPALIER_UNIT_DIR") {
		t.Errorf("in a namespace: %+v", p)
	}
	name := fmt.Sprintf("espalier-boot-%d", os.Getpid())
	file := filepath.Join("/run/netns", name)
	if err := errors.Join(os.MkdirAll("/run/netns", 0o755), os.WriteFile(file, nil, 0o600), unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(file, unix.MNT_DETACH); os.Remove(file) })
	t.Setenv("ESPALIER_UNIT_DIR", "/u")
	if p := find(); p.Units != "/u" || p.Namespace != file {
		t.Errorf("in a named namespace: %+v", p)
	}
}

// TestLost: what other programs and people take away of what lasts is told of, and comes back with the same
// question as has made it.
func TestLost(t *testing.T) {
	inNamespace(t)
	p := place(t)
	pairs := []boot.Pair{pair(1), pair(2)}
	if lost := p.Lost(nil, nil); len(lost) > 0 {
		t.Errorf("there is nothing to lose: %q", lost)
	}
	put := func() {
		t.Helper()
		if err := p.Install(pairs); err != nil {
			t.Fatal(err)
		}
		if lost := p.Lost(pairs, nil); len(lost) > 0 {
			t.Errorf("all is there: %q", lost)
		}
	}
	put()
	if err := p.SetRotation(boot.Rotation{File: "/a", Period: time.Minute}); err != nil {
		t.Fatal(err)
	}
	put()
	remove := func(names ...string) func() {
		return func() {
			for _, name := range names {
				if err := os.Remove(filepath.Join(p.Units, name)); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for _, c := range []struct {
		harm func()
		want []string
	}{
		{func() { rebooted(t) }, []string{"the guard is not loaded"}},
		{func() { exec.Command("nft", "flush", "chain", "inet", "espalier", "prerouting").Run() }, []string{"the guard is not loaded as it is to be"}},
		{remove("espalier-guard.service"), []string{"espalier-guard.service is not there"}},
		{remove("sysinit.target.wants/espalier-guard.service"), []string{"espalier-guard.service is not enabled"}},
		{func() {
			remove("espalier-guard.service")()
			os.Symlink("/dev/null", filepath.Join(p.Units, "espalier-guard.service"))
		}, []string{"espalier-guard.service says nothing"}},
		{remove("espalier-rotate.timer", "espalier-rotate.service"), []string{"espalier-rotate.service is not there", "espalier-rotate.timer is not there"}},
		{remove("timers.target.wants/espalier-rotate.timer"), []string{"espalier-rotate.timer is not enabled"}},
		{func() { os.WriteFile(filepath.Join(p.Dir, "guard.json"), nil, 0o600) }, []string{"the guard is not written down for the next boot as it is to be"}},
	} {
		c.harm()
		if lost := p.Lost(pairs, nil); !slices.Equal(lost, c.want) {
			t.Errorf("%q, want %q", lost, c.want)
		}
		put()
	}
	if lost := p.Lost(pairs[:1], nil); len(lost) != 2 {
		t.Errorf("for another pair: %q", lost)
	}
}

// TestProgramStays: a test's executable lies where it does not last.
func TestProgramStays(t *testing.T) {
	inNamespace(t)
	p := place(t)
	p.Program = ""
	if err := p.Install([]boot.Pair{pair(1)}); err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(p.Dir, "bin/espalier")
	have, err := os.ReadFile(path)
	if err != nil || string(have) != string(own) {
		t.Errorf("no copy of the program: %v", err)
	}
	text, _ := os.ReadFile(filepath.Join(p.Units, "espalier-guard.service"))
	if !strings.Contains(string(text), "ExecStart="+path+" boot --dir "+p.Dir+"\n") {
		t.Errorf("the unit does not run it:\n%s", text)
	}
	err = p.Remove()
	if left, _ := os.ReadDir(filepath.Dir(p.Dir)); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", err, left)
	}
}

// TestSystemdIsTold: what a systemd that runs is asked for, in its order, and no more than once.
func TestSystemdIsTold(t *testing.T) {
	inNamespace(t)
	p := place(t)
	p.Systemd = true
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	script := "#!/bin/sh\necho \"$*\" >> " + said + "\n[ \"$1\" != stop ] || [ ! -e " + dir + "/fails ]\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	asked := func(what string, do error, want ...string) {
		t.Helper()
		text, _ := os.ReadFile(said)
		os.Remove(said)
		if got := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"); do != nil || !slices.Equal(got, want) && (len(want) > 0 || len(text) > 0) {
			t.Errorf("%s: %v; asked for %q, want %q", what, do, got, want)
		}
	}
	asked("install", p.Install([]boot.Pair{pair(1)}), "daemon-reload", "start --no-block espalier-guard.service")
	asked("install again", p.Install([]boot.Pair{pair(1), pair(2)}))
	asked("hold", p.Hold(t.Context(), []uint16{4500}), "daemon-reload", "start espalier-encap-4500.service")
	asked("hold another", p.Hold(t.Context(), []uint16{4500, 4501}), "start espalier-encap-4500.service", "daemon-reload", "start espalier-encap-4501.service")
	asked("hold one", p.Hold(t.Context(), []uint16{4501}), "stop espalier-encap-4500.service", "daemon-reload", "start espalier-encap-4501.service")
	asked("rotate", p.SetRotation(boot.Rotation{File: "/a", Period: time.Minute}), "daemon-reload", "restart espalier-rotate.timer")
	asked("rotate, the same", p.SetRotation(boot.Rotation{File: "/a", Period: time.Minute}))
	asked("drop", p.DropRotation("/a"), "stop espalier-rotate.timer", "stop espalier-rotate.service", "daemon-reload")
	// What cannot be stopped is taken away all the same.
	if err := os.WriteFile(filepath.Join(dir, "fails"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(); err == nil || !strings.Contains(err.Error(), "systemctl stop espalier-guard.service") {
		t.Errorf("Remove: %v", err)
	}
	if err := p.Hold(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "systemctl stop espalier-encap-4501.service") {
		t.Errorf("Hold: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(p.Dir)); len(left) != 0 || strings.Contains(table(t), "espalier") {
		t.Errorf("left over: %v", left)
	}
}

// What a service leaves running lives on, and may take the last tunnel's units away.
func TestServicesSpareKeepers(t *testing.T) {
	inNamespace(t)
	p := place(t)
	if err := errors.Join(p.Install([]boot.Pair{pair(1)}), p.SetRotation(boot.Rotation{File: "/a", Period: time.Minute})); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"espalier-guard.service", "espalier-rotate.service"} {
		text, err := os.ReadFile(filepath.Join(p.Units, name))
		if err != nil {
			t.Fatal(err)
		}
		writable := ""
		for line := range strings.Lines(string(text)) {
			if paths, ok := strings.CutPrefix(line, "ReadWritePaths="); ok {
				writable = paths
			}
		}
		if !slices.Contains(strings.Fields(writable), "-"+p.Units) || !strings.Contains(string(text), "\nKillMode=process\n") {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}
