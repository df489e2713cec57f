package guest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/test/lab"
)

// When the link of a NIC goes down, or the NIC itself goes, the kernel deletes the SAs it has
// offloaded. The policies stay: nothing is sent in clear then, nor when the NIC is back, by the
// word of who sees the wire outside of this machine.
func TestOutsideOutage(t *testing.T) {
	for _, o := range []struct {
		name    string
		out, in func(t *testing.T, s *station)
	}{
		{"link down and up",
			func(t *testing.T, s *station) { s.Must("ip", "link", "set", s.Host.Device, "down") },
			func(t *testing.T, s *station) { s.connect(t) }},
		{"device removed and back",
			func(t *testing.T, s *station) { unload(t, "labnic") },
			func(t *testing.T, s *station) {
				if err := load("/modules/labnic.ko"); err != nil {
					t.Fatal(err)
				}
				bridge(t, "nic1")
				plugIn(t, s.Host, "nic0", s.home)
				s.connect(t)
			}},
	} {
		t.Run(o.name, func(t *testing.T) {
			s := newStation(t)
			c := &cell{Pair: lab.Pair{SPI: 0x8000}}
			software := lab.Pair{V6: true, Software: true, SPI: 0x8010}
			s.apply(t, flush, flush)
			t.Cleanup(func() { s.apply(t, flush, flush) })
			for _, p := range []lab.Pair{c.Pair, software} {
				s.apply(t, s.Script(s.B, p), s.Script(nil, p))
			}
			c.readBack(t, s)
			c.ping(t, s)

			before := s.seen(t)
			stop := shout(t, s)
			pause() // while it works
			o.out(t, s)
			for _, sa := range c.SAs() {
				if _, err := s.kernel.GetState(context.Background(), sa.ID()); !errors.Is(err, ipsec.ErrNotExist) {
					t.Errorf("offloaded SA %#x: %v, want none", sa.SPI, err)
				}
			}
			for _, sa := range software.SAs() {
				if _, err := s.kernel.GetState(context.Background(), sa.ID()); err != nil {
					t.Errorf("SA %#x in software: %v", sa.SPI, err)
				}
			}
			pause() // while it is out
			o.in(t, s)
			back := s.seen(t)
			pause() // while it is back, without SAs
			sent := stop()
			after := s.seen(t)
			if sent < 100 || back.ESP == before.ESP {
				t.Errorf("%d datagrams were sent; on the wire %+v, then %+v", sent, before.Counts, back.Counts)
			}
			if after.Cleartext != before.Cleartext || after.ESP != back.ESP {
				t.Errorf("on the wire were %+v, when the NIC was back %+v, then %+v; want nothing in clear, and nothing more without SAs", before.Counts, back.Counts, after.Counts)
			}
			if s.knock() {
				t.Error("a ping was answered without SAs")
			}

			again := &cell{Pair: lab.Pair{SPI: 0x8020, Reqid: c.SPI}}
			s.apply(t, s.States(s.B, again.Pair), s.States(nil, again.Pair))
			again.readBack(t, s)
			again.ping(t, s)

			// The judge does see what is in clear.
			s.apply(t, flush, "")
			last := s.seen(t)
			s.knock()
			if s.seen(t).Cleartext == last.Cleartext {
				t.Error("without policies nothing was seen in clear either")
			}
			if !t.Failed() {
				Tell("NIC gone", o.name, "offloaded SAs are deleted, those in software and policies stay; nothing leaves in clear")
			}
		})
	}
}

// knock is a ping that is not to be answered.
func (s *station) knock() (answered bool) {
	return s.Command("ping", "-n", "-q", "-c", "1", "-W", "0.2", lab.A4.String()).Code == 0
}

// pause lets some hundred datagrams be tried.
func pause() { time.Sleep(300 * time.Millisecond) }

// shout sends datagrams to the host outside all the time, by a socket of the host's and by one
// bound to the device. It returns how many were tried.
func shout(t *testing.T, s *station) (stop func() int) {
	t.Helper()
	var conns []net.PacketConn
	for _, device := range []string{"", s.Host.Device} {
		conn, err := s.listen(device)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	quit, done := make(chan struct{}), make(chan int)
	go func() {
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.A4, 9))
		for n := 0; ; n++ {
			select {
			case <-quit:
				done <- n
				return
			case <-time.After(time.Millisecond):
			}
			for _, c := range conns {
				c.WriteTo([]byte("nobody may read this"), to) // it may be refused
			}
		}
	}()
	return func() int {
		close(quit)
		n := <-done
		for _, c := range conns {
			c.Close()
		}
		return n
	}
}

// listen opens a socket on the host; device may be "".
func (s *station) listen(device string) (conn net.PacketConn, err error) {
	err = s.Do(func() error {
		if conn, err = net.ListenPacket("udp4", ":0"); err != nil || device == "" {
			return err
		}
		raw, err := conn.(*net.UDPConn).SyscallConn()
		if err != nil {
			return err
		}
		cerr := raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) })
		return errors.Join(err, cerr)
	})
	return conn, err
}
