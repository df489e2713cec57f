package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
)

// What the kernel's own tests of IPsec check (tools/testing/selftests/net/rtnetlink.sh,
// kci_test_ipsec and kci_test_ipsec_offload), here by espalier and by iproute2.

const (
	ownSrc, ownDst = "192.168.123.1", "192.168.123.2"
	// An AES-128 key in ASCII digits, and the salt "dcba".
	ownAEAD = "aead rfc4106(gcm(aes)) 0x3132333435363738393031323334353664636261 128 "
	ownSalt = "0x61626364"
)

// An SA and a policy are added, listed, got, counted and deleted; the answers and the events are
// the same by both programs.
func TestKernelsIPsecCheck(t *testing.T) {
	const (
		id       = "proto esp src " + ownSrc + " dst " + ownDst + " spi 0x07"
		selector = "dir out src " + ownSrc + "/24 dst " + ownDst + "/24"
		// Lines of events: six of an SA and four of a policy, when it comes and when it goes.
		eventLines = 2 * (6 + 4)
	)
	steps := []struct {
		words string
		holds string // "": it says nothing
		lines int    // that name both ends
	}{
		{words: "state flush"},
		{words: "policy flush"},
		{words: "state add " + id + " mode transport reqid 0x07 replay-window 32 " + ownAEAD + "sel src " + ownSrc + "/24 dst " + ownDst + "/24"},
		{words: "state list", holds: "proto esp spi 0x00000007 reqid 7 mode transport", lines: 2},
		{words: "state count", holds: "SAD count 1"},
		{words: "state get " + id, holds: "replay-window 32", lines: 2},
		{words: "state delete " + id},
		{words: "state list"},
		{words: "state count", holds: "SAD count 0"},
		{words: "policy add " + selector + " tmpl proto esp src " + ownSrc + " dst " + ownDst + " spi 0x07 mode transport reqid 0x07"},
		{words: "policy list", holds: "dir out", lines: 2},
		{words: "policy count", holds: "SPD IN  0 OUT 1 FWD 0"},
		{words: "policy get " + selector, holds: "tmpl", lines: 2},
		{words: "policy delete " + selector},
		{words: "policy list"},
		{words: "policy count", holds: "SPD IN  0 OUT 0 FWD 0"},
	}
	var said [2]string
	for i, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			h := lab.NewHost(t, "A", "p4p1")
			events := monitor(t, h)
			var all strings.Builder
			for _, s := range steps {
				got := p.ask(t, h, s.words)
				if !strings.Contains(got, s.holds) || s.holds == "" && got != "" {
					t.Errorf("%s says %q, want %q", s.words, got, s.holds)
				}
				lines := 0
				for line := range strings.Lines(got) {
					if strings.Contains(line, ownSrc) && strings.Contains(line, ownDst) {
						lines++
					}
				}
				if lines != s.lines {
					t.Errorf("%s names both ends in %d lines, want %d:\n%s", s.words, lines, s.lines, got)
				}
				fmt.Fprintf(&all, "%s\n%s", s.words, got)
			}
			heard := events(eventLines)
			if n := strings.Count(heard, "\n"); n != eventLines || strings.Count(heard, "Deleted ") != 2 {
				t.Errorf("%d lines of events, want %d:\n%s", n, eventLines, heard)
			}
			said[i] = all.String() + heard
		})
	}
	if said[0] != said[1] {
		t.Errorf("by %s:\n%s\nby %s:\n%s", programs[0].name, said[0], programs[1].name, said[1])
	}
	if !t.Failed() {
		Tell("The kernel's own checks", "ipsec: add, list, get, count, delete", "pass, and the events are the same, by espalier and by iproute2")
	}
}

// monitor has iproute2 listen to what the kernel tells of its SAs and policies. The result gives
// what it has printed, as soon as that are so many lines.
func monitor(t *testing.T, h *lab.Host) (printed func(lines int) string) {
	t.Helper()
	const patience = 10 * time.Second
	file, err := os.Create(filepath.Join(h.Dir, "monitor"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	cmd := exec.Command("ip", "xfrm", "monitor")
	cmd.Stdout = file
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for start := time.Now(); !listening(t, cmd.Process.Pid); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatal("ip xfrm monitor does not listen")
		}
	}
	return func(lines int) string {
		for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			text := read(t, file.Name())
			if strings.Count(text, "\n") >= lines || time.Since(start) > patience {
				return text
			}
		}
	}
}

// listening reports whether a process has joined a multicast group of NETLINK_XFRM.
func listening(t *testing.T, pid int) (joined bool) {
	t.Helper()
	for line := range strings.Lines(read(t, fmt.Sprintf("/proc/%d/net/netlink", pid))) {
		// Address, protocol, port, groups.
		f := strings.Fields(line)
		joined = joined || f[1] == strconv.Itoa(unix.NETLINK_XFRM) && f[2] == strconv.Itoa(pid) && f[3] != "00000000"
	}
	return joined
}

// offloader is a NIC that takes SAs.
type offloader struct {
	host *lab.Host
	sent func() uint64     // packets it has sent by its SAs
	sas  func() []driverSA // nil: it does not show them
}

// Two offloaded SAs are listed as such; the driver has both and sends by one; a flush takes them
// out of it.
func TestKernelsOffloadCheck(t *testing.T) {
	const packets = 3
	for _, nic := range []struct {
		name string
		plug func(t *testing.T) offloader
	}{
		{"netdevsim", func(t *testing.T) offloader {
			h := lab.NewHost(t, "A", "p4p1")
			n := newNetdevsim(t, h)
			return offloader{
				host: h,
				sent: func() uint64 { _, sent := n.read(t); return sent },
				sas:  func() []driverSA { sas, _ := n.read(t); return sas },
			}
		}},
		{"the lab's NIC", func(t *testing.T) offloader {
			l := onNIC(t, "p4p1")
			before := nicCounts(t, l)[l.A].sent
			return offloader{host: l.A, sent: func() uint64 { return nicCounts(t, l)[l.A].sent - before }}
		}},
	} {
		t.Run(nic.name, func(t *testing.T) {
			passed := 0
			for _, p := range programs {
				t.Run(p.name, func(t *testing.T) {
					n := nic.plug(t)
					h := n.host
					h.Must("ip", "address", "add", ownSrc+"/24", "dev", h.Device)
					// Nobody is there.
					h.Must("ip", "neighbour", "add", ownDst, "dev", h.Device, "lladdr", "00:11:22:33:44:55")
					p.run(t, h, offloadCheck)
					if list := p.ask(t, h, "state list"); strings.Count(list, "crypto offload parameters: dev p4p1 dir") != 2 {
						t.Errorf("not both SAs are offloaded:\n%s", list)
					}
					h.Command("ping", "-n", "-q", "-c", fmt.Sprint(packets), "-i", "0.1", "-W", "0.1", ownDst)
					if sent := n.sent(); sent != packets {
						t.Errorf("the NIC has sent %d packets, want %d", sent, packets)
					}
					if n.sas != nil {
						want := []driverSA{{"tx", 9, ownSalt}, {"rx", 9, ownSalt}}
						if got := n.sas(); !slices.Equal(got, want) {
							t.Errorf("the driver has %+v, want %+v", got, want)
						}
					}
					p.run(t, h, "ip xfrm state flush\nip xfrm policy flush\n")
					if n.sas != nil && len(n.sas()) != 0 {
						t.Errorf("after a flush the driver has %+v", n.sas())
					}
					if !t.Failed() {
						passed++
					}
				})
			}
			if passed == len(programs) {
				Tell("The kernel's own checks", "ipsec offload, on "+nic.name, "passes, by espalier and by iproute2")
			}
		})
	}
}

const offloadCheck = `
ip xfrm policy add dir out src ` + ownSrc + `/24 dst ` + ownDst + `/24 tmpl proto esp src ` + ownSrc + ` dst ` + ownDst + ` spi 9 mode transport reqid 42
ip xfrm policy add dir in src ` + ownDst + `/24 dst ` + ownSrc + `/24 tmpl proto esp src ` + ownDst + ` dst ` + ownSrc + ` spi 9 mode transport reqid 42
ip xfrm state add proto esp src ` + ownSrc + ` dst ` + ownDst + ` spi 9 mode transport reqid 42 ` + ownAEAD + `sel src ` + ownSrc + `/24 dst ` + ownDst + `/24 offload dev p4p1 dir out
ip xfrm state add proto esp src ` + ownDst + ` dst ` + ownSrc + ` spi 9 mode transport reqid 42 ` + ownAEAD + `sel src ` + ownDst + `/24 dst ` + ownSrc + `/24 offload dev p4p1 dir in
`
