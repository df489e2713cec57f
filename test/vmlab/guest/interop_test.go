package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
	"espalier/xfrm/client"
)

// The kernel's ESP, in software and on the NIC, and the userspace device understand each other
// in every form: pings, TCP both ways while the SAs are exchanged for new ones, packets of all
// sizes; and each refuses what it is sent a second time. Nothing leaves the VM in clear.
func TestOutsideInterop(t *testing.T) {
	s := newStation(t)
	holdEncap(t, s.Host, lab.B4)
	holdEncap(t, s.Host, lab.B6)
	before := s.seen(t)
	for i, c := range cells() {
		t.Run(c.name, func(t *testing.T) {
			c.SPI = uint32(0x1000 + i*0x10)
			result := c.run(t, s)
			if !t.Failed() {
				Tell("Userspace device and kernel ESP", c.name, result)
			}
		})
	}
	if seen := s.seen(t); seen.Cleartext != before.Cleartext || seen.ESP == before.ESP {
		t.Errorf("out of the VM came %+v, and before %+v; want ESP, and nothing in clear", seen.Counts, before.Counts)
	}
}

// cell is one form of ESP between the kernel and the device.
type cell struct {
	name string
	lab.Pair
}

// cells are all combinations of what there is to choose.
func cells() (all []cell) {
	type choice struct {
		word string
		set  func(*lab.Pair)
	}
	no := func(*lab.Pair) {}
	// Packets decrypted by another thread come late: a wide window takes them.
	all = []cell{{Pair: lab.Pair{Window: 1024}}}
	for _, choices := range [][]choice{
		{{"software", func(p *lab.Pair) { p.Software = true }}, {"NIC", no}},
		{{"transport", no}, {"tunnel", func(p *lab.Pair) { p.Tunnel = true }}},
		{{"IPv4", no}, {"IPv6", func(p *lab.Pair) { p.V6 = true }}},
		{{"protocol 50", no}, {"UDP 4500", func(p *lab.Pair) { p.UDP = true }}},
		{{"AES-128", func(p *lab.Pair) { p.KeyBits = 128 }}, {"AES-256", no}},
		{{"no ESN", no}, {"ESN", func(p *lab.Pair) { p.ESN = true }}},
	} {
		var next []cell
		for _, c := range all {
			for _, choice := range choices {
				n := c
				choice.set(&n.Pair)
				if n.name != "" {
					n.name += ", "
				}
				n.name += choice.word
				next = append(next, n)
			}
		}
		all = next
	}
	return all
}

// run installs the cell's SAs, has traffic of every kind pass, and tells what came of it.
func (c *cell) run(t *testing.T, s *station) string {
	t.Helper()
	before := c.observe(t, s)
	nic := statistics(t, s.Host)
	s.apply(t, flush, flush)
	if err := s.outside.Apply(s.Script(nil, c.Pair)); err != nil {
		t.Fatalf("the device outside: %v", err)
	}
	if err := lab.Apply(s.kernel, s.NS, s.Script(s.B, c.Pair)); err != nil {
		return c.refused(t, err)
	}
	c.readBack(t, s)
	c.ping(t, s)
	renewed := c.Pair
	renewed.Reqid, renewed.SPI = c.SPI, c.SPI+4
	c.stream(t, s, func() { c.renew(t, s, renewed) })
	c.settle(t, s)
	s.apply(t, s.Delete(c.Pair), s.Delete(c.Pair))
	c.datagrams(t, s)
	here, there := c.refusals(t, s, before, &observation{})
	c.compare(t, here, there, &observation{})
	c.replay(t, s)
	// Packets in more than one piece are not for a NIC, nor is anything of an SA in software.
	counted := since(nic, statistics(t, s.Host))
	sent, received := counted["ipsec_tx_pkts"], counted["ipsec_rx_pkts"]
	const full = size / 1500
	switch {
	case c.Software && sent+received > 0:
		t.Errorf("the NIC encrypted %d packets and decrypted %d", sent, received)
	case !c.Software && (sent < full || received < full):
		t.Errorf("the NIC encrypted no more than %d packets and decrypted %d", sent, received)
	}
	if c.Software {
		return "passes"
	}
	return "offloaded; passes"
}

const flush = "state flush\npolicy flush\n"

// refused compares a refusal with what is known: no kernel and no NIC takes crypto offload of
// UDP encapsulation.
func (c *cell) refused(t *testing.T, err error) string {
	t.Helper()
	var e *client.Error
	if c.Software || !c.UDP || !errors.As(err, &e) || !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	want := forKernel(t, "labnic: An encapsulated xfrm state cannot be offloaded", "Encapsulation and TFC padding can't be offloaded")
	if e.Message != want {
		t.Fatalf("refused: %q, want %q", e.Message, want)
	}
	return "refused: " + e.Message
}

// readBack compares who is to encrypt with what was asked for.
func (c *cell) readBack(t *testing.T, s *station) {
	t.Helper()
	for _, sa := range c.SAs() {
		got, err := s.kernel.GetState(context.Background(), sa.ID())
		if err != nil {
			t.Fatal(err)
		}
		if (got.Offload == nil) != c.Software {
			t.Fatalf("offload is %+v", got.Offload)
		}
	}
}

func (c *cell) ping(t *testing.T, s *station) {
	t.Helper()
	a, b := c.Ends()
	if !s.Ping(a, 1) {
		t.Error("no answer from outside")
	}
	if answered, err := s.outside.Ping(b.String()); err != nil || !answered {
		t.Error("no answer from the VM", err)
	}
}

// stream has the host outside send back 1 MiB while it comes, and calls halfway when half is
// back: then there is much on its way in both directions.
func (c *cell) stream(t *testing.T, s *station, halfway func()) {
	t.Helper()
	conn, err := c.dial(s, "tcp")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	data, got := lab.Pattern(size, 3), make([]byte, size)
	go conn.Write(data)
	if _, err := io.ReadFull(conn, got[:size/2]); err != nil {
		t.Fatalf("TCP, first half: %v", err)
	}
	halfway()
	if _, err := io.ReadFull(conn, got[size/2:]); err != nil {
		t.Fatalf("TCP, second half: %v", err)
	}
	if !bytes.Equal(got, data) {
		t.Error("TCP: what came back is not what was sent")
	}
}

func (c *cell) dial(s *station, network string) (conn net.Conn, err error) {
	a, _ := c.Ends()
	err = s.Do(func() error {
		conn, err = net.DialTimeout(network, netip.AddrPortFrom(a, EchoPort).String(), 10*time.Second)
		return err
	})
	return conn, err
}

// renew brings new SAs in: those for receiving first.
func (c *cell) renew(t *testing.T, s *station, p lab.Pair) {
	t.Helper()
	s.apply(t, s.Inbound(s.B, p), s.Inbound(nil, p))
	s.apply(t, s.Outbound(s.B, p), s.Outbound(nil, p))
}

// settle waits until all that was sent by the first SAs has been received: the kernel may hand
// packets to another thread for decryption, and drops them if their SA goes meanwhile. A busy
// machine may lose one in a hundred on the way; TCP has sent it again.
func (c *cell) settle(t *testing.T, s *station) {
	t.Helper()
	for i, sa := range c.SAs() {
		var last [2]uint64
		for moved := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			counts := c.counts(t, s, i, sa)
			if counts[0] == counts[1] {
				break
			}
			if counts != last {
				last, moved = counts, time.Now()
			}
			if time.Since(moved) < 2*time.Second {
				continue
			}
			if counts[0] < counts[1] || (counts[0]-counts[1])*100 > counts[0] {
				t.Fatalf("SA %#x: %d packets were sent, %d received", sa.SPI, counts[0], counts[1])
			}
			t.Logf("SA %#x: %d packets were sent, %d received", sa.SPI, counts[0], counts[1])
			break
		}
	}
}

// counts is what was sent by an SA, and what received.
func (c *cell) counts(t *testing.T, s *station, direction int, sa lab.SA) [2]uint64 {
	t.Helper()
	here, err := s.kernel.GetState(context.Background(), sa.ID())
	if err != nil {
		t.Fatal(err)
	}
	there, err := s.outside.Packets(sa)
	if err != nil {
		t.Fatal(err)
	}
	if direction == 0 {
		return [2]uint64{there, here.Current.Packets}
	}
	// Of what it sends the kernel counts super-packets, but numbers packets.
	return [2]uint64{uint64(here.Replay.OSeq), there}
}

// datagrams has packets of many sizes sent back: around a block of the cipher, and around the
// largest that leaves in one piece, of the path and of the link.
func (c *cell) datagrams(t *testing.T, s *station) {
	t.Helper()
	conn, err := c.dial(s, "udp")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	mtu, err := pathMTU(conn.(*net.UDPConn), c.V6)
	if err != nil {
		t.Fatal(err)
	}
	const link = 1500
	if mtu >= link || mtu < link-128 {
		t.Errorf("the path takes %d bytes in one piece", mtu)
	}
	headers := 28
	if c.V6 {
		headers = 48
	}
	for _, payload := range []int{1, 2, 63, 64, 65} {
		echo(t, conn, payload)
	}
	for _, packet := range []int{mtu - 1, mtu, mtu + 1, link - 1, link, link + 1} {
		echo(t, conn, packet-headers)
	}
}

// echo has a datagram sent back.
func echo(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	data, buf := lab.Pattern(size, 3), make([]byte, 1<<16)
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(data); err != nil {
		t.Errorf("%d bytes: %v", size, err)
		return
	}
	if n, err := conn.Read(buf); err != nil || !bytes.Equal(buf[:n], data) {
		t.Errorf("%d bytes: %d other ones came back, %v", size, n, err)
	}
}

// replays is how many ESP packets are carried twice in each direction.
const replays = 3

// replay has packets carried twice; both ends refuse them and say so. For half a second after the device has
// begun to receive a busy SA in another way, packets may come by both, and what it refuses then it does not count:
// so one more try is made where it has counted too few.
func (c *cell) replay(t *testing.T, s *station) {
	t.Helper()
	for last := c.UDP; ; last = true {
		before := c.observe(t, s)
		c.sendTwice(t, s)
		here, there := c.refusals(t, s, before, replayed)
		few := maps.Equal(here, replayed.here) && (len(there) == 0 || len(there) == 1 && there[inReplay] > 0 && there[inReplay] < replays)
		if !few || last {
			c.compare(t, here, there, replayed)
			return
		}
		t.Logf("the device outside has counted %v", there)
	}
}

func (c *cell) sendTwice(t *testing.T, s *station) {
	t.Helper()
	conn, err := c.dial(s, "udp")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := s.outside.Replay(replays); err != nil {
		t.Fatal(err)
	}
	for range replays {
		echo(t, conn, 64)
	}
}

// observation is what both ends have refused so far, by counter or reason.
type observation struct{ here, there map[string]uint64 }

var replayed = &observation{
	here:  map[string]uint64{"XfrmInStateSeqError": replays},
	there: map[string]uint64{inReplay: replays},
}

const inReplay = "in-replay"

func (c *cell) observe(t *testing.T, s *station) observation {
	t.Helper()
	o := observation{here: make(map[string]uint64)}
	err := s.Do(func() error {
		drops, err := s.kernel.Drops(context.Background())
		for _, d := range drops {
			o.here[d.Counter] = d.Packets
		}
		return err
	})
	if err == nil {
		o.there, err = s.outside.Drops()
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// refusals waits until both ends have refused what they should since, and gives what they have.
func (c *cell) refusals(t *testing.T, s *station, before observation, want *observation) (here, there map[string]uint64) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		now := c.observe(t, s)
		here, there = since(before.here, now.here), since(before.there, now.there)
		if maps.Equal(here, want.here) && maps.Equal(there, want.there) || time.Now().After(end) {
			return here, there
		}
	}
}

// compare fails if anything else was refused.
func (c *cell) compare(t *testing.T, here, there map[string]uint64, want *observation) {
	t.Helper()
	if !maps.Equal(here, want.here) || !maps.Equal(there, want.there) {
		t.Errorf("the kernel refused %v, want %v; the device outside %v, want %v", here, want.here, there, want.there)
	}
}

// since gives what has changed.
func since(before, now map[string]uint64) map[string]uint64 {
	changed := make(map[string]uint64)
	for name, n := range now {
		if n != before[name] {
			changed[name] = n - before[name]
		}
	}
	return changed
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}
