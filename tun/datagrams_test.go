package tun

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
)

// TestDatagramFrames sends datagrams through the kernel's stack as one frame, in both directions.
func TestDatagramFrames(t *testing.T) {
	ns := newNS(t)
	d := newDevice(t, ns, 1, "192.168.1.65/24")
	if !d.UDPFrames() {
		t.Skip("this kernel has no UDP segmentation on TUN devices (Linux 6.2)")
	}
	var c *net.UDPConn
	if err := ns.Do(func() (err error) {
		c, err = net.DialUDP("udp", &net.UDPAddr{Port: 5201}, &net.UDPAddr{IP: net.IPv4(192, 168, 1, 64), Port: 40000})
		return
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	payload := bytes.Repeat([]byte("0123456789"), 1234)

	// In.
	f := stream{udp: true, payload: payload, mss: 1000}.frame()
	f.Header.HeaderLength = 28
	if err := d.Queues()[0].Write(f.Header, append(make([]byte, HeaderLen), f.Packet...)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	for got := 0; got < len(payload); {
		n, err := c.Read(b)
		if err != nil || n != min(1000, len(payload)-got) || !bytes.Equal(b[:n], payload[got:got+n]) {
			t.Fatalf("datagram of %d bytes at %d: %v", n, got, err)
		}
		got += n
	}

	// Out.
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 1000) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(payload); err != nil {
		t.Fatal(err)
	}
	in, got := make([]byte, BufferLen), []byte(nil)
	for {
		r, err := d.Queues()[0].Read(in)
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Segmenter()
		if err != nil {
			t.Fatal(err)
		}
		if h := s.Header(); h.Protocol != inet.ProtoUDP || h.DstPort != 40000 {
			continue // what the stack has to say beside
		}
		if s.Count() != 13 {
			t.Fatalf("frame of %d datagrams, want 13", s.Count())
		}
		for i := range s.Count() {
			p := make([]byte, s.Size(i))
			s.Write(p, i)
			udp := checkPacket(t, p, inet.ProtoUDP, 20)
			if int(binary.BigEndian.Uint16(udp[4:])) != len(udp) {
				t.Fatalf("datagram %d: UDP length %d, want %d", i, binary.BigEndian.Uint16(udp[4:]), len(udp))
			}
			got = append(got, udp[8:]...)
		}
		break
	}
	if !bytes.Equal(got, payload) {
		t.Error("the datagrams are not what was sent")
	}
}
