package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/internal/cli"
	"espalier/test/lab"
	"espalier/xfrm"
)

// xfrmMonitor is `espalier xfrm monitor` on a host.
type xfrmMonitor struct {
	mu     sync.Mutex
	output bytes.Buffer
}

func (m *xfrmMonitor) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.output.Write(b)
}

func (m *xfrmMonitor) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.output.String()
}

// await waits until the monitor has printed something and returns all it has printed.
func (m *xfrmMonitor) await(t *testing.T, text string) string {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		all := m.text()
		if strings.Contains(all, text) {
			return all
		}
		if time.Since(start) > untilThere {
			t.Fatalf("the monitor never says %q:\n%s", text, all)
		}
	}
}

// startMonitor returns when the monitor hears what happens.
func (l *nicLab) startMonitor(t *testing.T, h *lab.Host, options ...string) *xfrmMonitor {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := &xfrmMonitor{}
	stderr := xfrmMonitor{} // read when it has ended
	ended := make(chan int, 1)
	home := fmt.Sprintf("/proc/self/fd/%d", h.Fd())
	args := slices.Concat([]string{"xfrm", "--sad", "kernel", "-n", home}, options, []string{"monitor"})
	go func() { ended <- cli.Main(ctx, args, strings.NewReader(""), m, &stderr) }()
	t.Cleanup(func() {
		cancel()
		select {
		case code := <-ended:
			if code != 130 || strings.Contains(stderr.text(), "warning") {
				t.Errorf("the monitor ends with %d: %s", code, stderr.text())
			}
		case <-time.After(untilThere):
			t.Error("the monitor does not end")
		}
	})
	for start := time.Now(); !strings.Contains(m.text(), "9000"); time.Sleep(20 * time.Millisecond) {
		if time.Since(start) > untilThere {
			t.Fatal("the monitor hears nothing")
		}
		l.apply(t, h, "state add "+ends+"spi 0x9000 mode transport "+aead+"128")
		l.apply(t, h, "state delete "+ends+"spi 0x9000")
	}
	return m
}

func lostLine(sa lab.SA, dir xfrm.StateDir) string {
	return fmt.Sprintf("\tsrc %s dst %s proto esp spi 0x%08x reqid %d mode transport dir %s\n", sa.Src, sa.Dst, sa.SPI, sa.Reqid, dir)
}

// The monitor tells that a link has taken SAs along, which the kernel does not.
func TestMonitorLinkDown(t *testing.T) {
	l := newNICLab(t, "p4p1")
	before, after, deleted := lab.Pair{}, lab.Pair{SPI: 0x2000}, lab.Pair{SPI: 0x3000}
	l.program(t, before)
	m := l.startMonitor(t, l.A)
	for _, p := range []lab.Pair{after, deleted, {SPI: 0x4000, Software: true}} {
		l.apply(t, l.A, l.States(l.A, p))
	}

	setParameter(t, "link", "0,1")
	m.await(t, "\nLink p4p1 has no carrier, its 6 offloaded SAs stay\n")
	setParameter(t, "link", "1")
	m.await(t, "\nLink p4p1 has a carrier again, its 6 offloaded SAs stay\n")

	for _, sa := range deleted.SAs() { // by hand, and at once thereafter
		if err := l.kernel[l.A].DeleteState(context.Background(), sa.ID()); err != nil {
			t.Fatal(err)
		}
	}
	inside(t, l.A, func() error {
		link, err := netlink.LinkByName(l.Device)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	})
	m.await(t, "\nOffloaded SAs lost: p4p1 is down\n")
	setUp(t, l.A, addresses[0]...)
	all := m.await(t, "\nLink p4p1 is up, the SAs that were lost do not come back by themselves\n")
	_, rest, _ := strings.Cut(all, "\nOffloaded SAs lost: p4p1 is down\n")
	lost := ""
	for line := range strings.Lines(rest) { // events of the kernel may come behind
		if !strings.HasPrefix(line, "\tsrc ") {
			break
		}
		lost += line
	}
	want := ""
	for _, p := range []lab.Pair{before, after} {
		// Host A programs what it receives first.
		want += lostLine(p.SAs()[1], xfrm.StateDirIn) + lostLine(p.SAs()[0], xfrm.StateDirOut)
	}
	if sorted(lost) != sorted(want) {
		t.Errorf("lost:\n%swant:\n%s", lost, want)
	}
}

// sorted orders lines: a dump has its own order.
func sorted(lines string) string {
	return strings.Join(slices.Sorted(strings.Lines(lines)), "")
}

func TestMonitorRemoved(t *testing.T) {
	l := newNICLab(t, "p4p1")
	p := lab.Pair{}
	l.program(t, p)
	m := l.startMonitor(t, l.A, "-o", "json")
	unload(t, "labnic")
	defer func() {
		if err := load("/modules/labnic.ko"); err != nil {
			t.Errorf("load the NIC's driver again: %v", err)
		}
	}()
	all := m.await(t, `"state":"gone"`)
	var states, spis []string
	for line := range strings.Lines(all) {
		var e struct {
			Event string
			Link  struct{ Dev, State string }
			Lost  []struct{ SPI, Dir string }
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if e.Event != "LINK" {
			continue
		}
		states = append(states, e.Link.Dev+" "+e.Link.State)
		for _, sa := range e.Lost {
			spis = append(spis, sa.SPI+" "+sa.Dir)
		}
	}
	slices.Sort(spis)
	sas := p.SAs()
	want := []string{fmt.Sprintf("0x%08x out", sas[0].SPI), fmt.Sprintf("0x%08x in", sas[1].SPI)}
	slices.Sort(want)
	if !slices.Equal(spis, want) || !slices.Equal(slices.Compact(states), []string{"p4p1 down", "p4p1 gone"}) {
		t.Errorf("lost %q, want %q; links %q", spis, want, states)
	}
}
