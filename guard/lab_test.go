package guard

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// lab is two network namespaces joined by a veth pair. The test's own thread lives in the
// first, whose end of the pair, p4p1, is the one to guard.
type lab struct {
	t          *testing.T
	here, far  netns.NsHandle
	device     netlink.Link
	peerMAC    net.HardwareAddr
	fromHere   int   // packet socket that sends out of p4p1
	fromFar    int   // and one that sends to it
	arrivedFar []int // packet sockets that see what came out of p4p1
	admitted   []int // and what came in and was let in: behind the ingress hook
	serial     uint16
}

// skip is for what a machine may lack; CI must not.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}

// inNamespace gives the test a thread in a namespace of its own.
func inNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	if os.Getuid() != 0 {
		skip(t, "network namespaces take root")
	}
	runtime.LockOSThread()
	// Packets sent from one CPU stay in order.
	var cpus, one unix.CPUSet
	ok(unix.SchedGetaffinity(0, &cpus))
	for i := 0; one.Count() == 0; i++ {
		if cpus.IsSet(i) {
			one.Set(i)
		}
	}
	ok(unix.SchedSetaffinity(0, &one))
	old := must(netns.Get())
	ns := must(netns.New())
	t.Cleanup(func() {
		ok(unix.SchedSetaffinity(0, &cpus))
		ok(netns.Set(old))
		ok(old.Close())
		ok(ns.Close())
		runtime.UnlockOSThread()
	})
	return ns
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, here: inNamespace(t)}
	l.far = must(netns.New()) // moves the thread
	ok(netns.Set(l.here))
	t.Cleanup(func() { ok(l.far.Close()) })
	ok(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "p4p1"}, PeerName: "p4p1", PeerNamespace: netlink.NsFd(l.far)}))
	l.device = l.up("p4p1", "10.0.0.1/24", "2001:db8::1/64")
	l.fromHere = l.socket(unix.SOCK_RAW, 0)
	l.arrivedFar = nil
	l.admitted = []int{l.socket(unix.SOCK_DGRAM, unix.ETH_P_IP), l.socket(unix.SOCK_DGRAM, unix.ETH_P_IPV6)}
	l.there(func() {
		l.peerMAC = l.up("p4p1", "10.0.0.2/24", "2001:db8::2/64").Attrs().HardwareAddr
		l.fromFar = l.socket(unix.SOCK_RAW, 0)
		l.arrivedFar = []int{l.socket(unix.SOCK_DGRAM, unix.ETH_P_ALL)}
	})
	for _, ip := range []string{"10.0.0.2", "2001:db8::2"} {
		ok(netlink.NeighSet(&netlink.Neigh{LinkIndex: l.device.Attrs().Index, IP: net.ParseIP(ip), HardwareAddr: l.peerMAC, State: netlink.NUD_PERMANENT}))
	}
	l.await(l.fromHere, l.arrivedFar[0])
	l.await(l.fromFar, l.admitted[0])
	return l
}

// await sends until something arrives: a link drops packets while it is coming up.
func (l *lab) await(from, to int) {
	buf := make([]byte, 65536)
	for range 1000 {
		send(from, l.sentinels()[0])
		time.Sleep(5 * time.Millisecond)
		for {
			n, _, err := unix.Recvfrom(to, buf, unix.MSG_DONTWAIT)
			if err != nil {
				break
			}
			if bytes.HasSuffix(buf[:n], []byte("sentinel")) {
				return
			}
		}
	}
	l.t.Fatal("the link does not come up")
}

func (l *lab) up(name string, addrs ...string) netlink.Link {
	link := must(netlink.LinkByName(name))
	ok(netlink.LinkSetUp(link))
	for _, a := range addrs {
		addr := must(netlink.ParseAddr(a))
		addr.Flags = unix.IFA_F_NODAD
		ok(netlink.AddrAdd(link, addr))
	}
	return must(netlink.LinkByName(name))
}

// there runs f in the peer's namespace.
func (l *lab) there(f func()) {
	ok(netns.Set(l.far))
	defer func() { ok(netns.Set(l.here)) }()
	f()
}

// socket opens a packet socket on p4p1 in the thread's namespace.
func (l *lab) socket(kind int, proto uint16) int {
	fd := must(unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC, 0))
	l.t.Cleanup(func() { unix.Close(fd) })
	index := must(net.InterfaceByName("p4p1")).Index
	ok(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20))
	ok(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap16(proto), Ifindex: index}))
	return fd
}

func swap16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// frame is an Ethernet frame to send; pkt is the IP packet by which it is found again.
type frame struct {
	tags []byte // between the addresses and the EtherType: 802.1Q
	pkt  []byte
	mark uint32
	// declared is the protocol the sending socket claims, 0 what the frame says.
	declared uint16
}

// bytes is the frame, from nobody to nobody: no stack shall answer it.
func (f *frame) bytes() []byte {
	b := append([]byte{2, 0, 0, 0, 0, 0x98, 2, 0, 0, 0, 0, 0x99}, f.tags...)
	etherType := uint16(unix.ETH_P_IP)
	if f.pkt[0]>>4 == 6 {
		etherType = unix.ETH_P_IPV6
	}
	return append(binary.BigEndian.AppendUint16(b, etherType), f.pkt...)
}

func send(fd int, f frame) {
	b := f.bytes()
	ok(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(f.mark)))
	to := &unix.SockaddrLinklayer{Protocol: swap16(f.declared)}
	if f.declared != 0 {
		sa := must(unix.Getsockname(fd)).(*unix.SockaddrLinklayer)
		to.Ifindex = sa.Ifindex
		sent(unix.Sendto(fd, b, 0, to))
		return
	}
	_, err := unix.Write(fd, b)
	sent(err)
}

// sent takes it for granted that a packet dropped going out is reported to its sender.
func sent(err error) {
	if err != unix.ENOBUFS {
		ok(err)
	}
}

// crossOut sends frames out of p4p1 and reports which of them reach the peer.
func (l *lab) crossOut(frames ...frame) []bool {
	for _, f := range frames {
		send(l.fromHere, f)
	}
	sentinels := l.sentinels()
	for _, f := range sentinels {
		send(l.fromHere, f)
	}
	return l.which(frames, l.collect(l.arrivedFar, sentinels))
}

// crossIn sends frames from the peer and reports which of them get into the stack.
func (l *lab) crossIn(frames ...frame) []bool {
	for _, f := range frames {
		send(l.fromFar, f)
	}
	sentinels := l.sentinels()
	for _, f := range sentinels {
		send(l.fromFar, f)
	}
	return l.which(frames, l.collect(l.admitted, sentinels))
}

// sentinels are packets no policy of these tests has to do with. They follow the others on
// the same way: when they are there, what is still missing was dropped.
func (l *lab) sentinels() []frame {
	l.serial++
	p4 := packet{src: "192.0.2.1", dst: "192.0.2.2", proto: 253, payload: []byte("sentinel"), id: l.serial}
	p6 := packet{src: "3fff::1", dst: "3fff::2", proto: 253, payload: []byte("sentinel"), id: l.serial}
	return []frame{{pkt: p4.bytes()}, {pkt: p6.bytes()}}
}

// collect reads the sockets until all sentinels are in.
func (l *lab) collect(sockets []int, sentinels []frame) [][]byte {
	var got [][]byte
	missing := len(sentinels)
	deadline := time.Now().Add(30 * time.Second)
	buf := make([]byte, 65536)
	for missing > 0 {
		if time.Now().After(deadline) {
			l.t.Fatal("a packet that no rule concerns did not arrive")
		}
		for _, fd := range sockets {
			n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
			if err != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			b := bytes.Clone(buf[:n])
			got = append(got, b)
			for _, s := range sentinels {
				if bytes.Equal(s.pkt, b) {
					missing--
				}
			}
		}
	}
	return got
}

func (l *lab) which(frames []frame, got [][]byte) []bool {
	arrived := make([]bool, len(frames))
	for i, f := range frames {
		for _, b := range got {
			// A packet behind tags in the frame is seen with them.
			arrived[i] = arrived[i] || bytes.HasSuffix(b, f.pkt)
		}
	}
	return arrived
}

// packet is an IP packet to be built byte by byte.
type packet struct {
	src, dst   string
	proto      uint8 // upper layer
	payload    []byte
	id         uint16 // IPv4 ID or IPv6 flow label; tells packets apart
	hops       uint8  // 0: 64
	options    []byte // IPv4 options, or IPv6 extension headers whose last "next header" is 0
	lastNext   int    // where in options that byte is
	firstNext  uint8  // the type of the first extension header
	fragOffset uint16 // IPv4 only; in bytes
	more       bool
}

func (p packet) bytes() []byte {
	src, dst := netip.MustParseAddr(p.src), netip.MustParseAddr(p.dst)
	hops := p.hops
	if hops == 0 {
		hops = 64
	}
	var b []byte
	if src.Is4() {
		headerLen := 20 + len(p.options)
		frag := p.fragOffset / 8
		if p.more {
			frag |= 0x2000
		}
		b = append(b, 0x40|byte(headerLen/4), 0)
		b = binary.BigEndian.AppendUint16(b, uint16(headerLen+len(p.payload)))
		b = binary.BigEndian.AppendUint16(b, p.id)
		b = binary.BigEndian.AppendUint16(b, frag)
		b = append(b, hops, p.proto, 0, 0)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		var sum uint32
		whole := append(bytes.Clone(b), p.options...)
		for i := 0; i < len(whole); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(whole[i:]))
		}
		for sum > 0xffff {
			sum = sum>>16 + sum&0xffff
		}
		binary.BigEndian.PutUint16(b[10:], ^uint16(sum))
		return append(append(b, p.options...), p.payload...)
	}
	next, ext := p.proto, bytes.Clone(p.options)
	if len(ext) > 0 {
		next = p.firstNext
		ext[p.lastNext] = p.proto
	}
	b = binary.BigEndian.AppendUint32(b, 6<<28|uint32(p.id))
	b = binary.BigEndian.AppendUint16(b, uint16(len(ext)+len(p.payload)))
	b = append(b, next, hops)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	return append(append(b, ext...), p.payload...)
}

// ports is the beginning of a TCP or UDP header, and some more.
func ports(src, dst uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	return append(b, make([]byte, 20)...)
}

// nft runs the nft program in the thread's namespace; tests only.
func nft(t *testing.T, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("nft")
	if err != nil {
		skip(t, "no nft program: install nftables")
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}
