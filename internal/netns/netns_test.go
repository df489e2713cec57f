package netns

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestCable(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	outside, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var hosts [2]*NS
	for i := range hosts {
		if hosts[i], err = New(); err != nil {
			t.Fatal(err)
		}
		defer hosts[i].Close()
	}
	err = Cable(
		End{hosts[0], "left", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		End{hosts[1], "right", []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}},
	)
	if err != nil {
		t.Fatal(err)
	}

	// A packet sent at once arrives: the cable is up when Cable returns.
	for _, addr := range []string{"192.0.2.2:7", "[2001:db8::2]:7"} {
		var to, from net.Conn
		err := errors.Join(
			hosts[1].Do(func() error {
				a, err := net.ResolveUDPAddr("udp", addr)
				if err == nil {
					to, err = net.ListenUDP("udp", a)
				}
				return err
			}),
			hosts[0].Do(func() (err error) { from, err = net.Dial("udp", addr); return err }),
		)
		if err != nil {
			t.Fatal(err)
		}
		from.Write([]byte("x"))
		to.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := to.Read(make([]byte, 1)); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		to.Close()
		from.Close()
	}

	cmd := exec.Command("cat", "/proc/net/dev")
	var out strings.Builder
	cmd.Stdout = &out
	if err := hosts[1].Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "right:") {
		t.Errorf("a process started in the namespace sees %v\n%s", err, out.String())
	}
	now, err := net.Interfaces()
	if err != nil || len(now) != len(outside) {
		t.Errorf("interfaces outside changed: %v, %v", now, err)
	}
}

func TestClosed(t *testing.T) {
	n := &NS{work: make(chan func()), quit: make(chan struct{})}
	close(n.quit)
	if err := n.Do(func() error { t.Error("ran"); return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Do: %v", err)
	}
}
