package guest

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// station is host B of the lab, in the VM: its device is one end of the lab's NIC. The NIC's
// cable is led out of the VM, where host A is.
type station struct {
	*lab.Host
	*lab.Lab
	kernel  *client.Client
	outside *Outside
	home    *os.File // the namespace where the NIC is between tests
}

func newStation(t *testing.T) *station {
	t.Helper()
	h := lab.NewHost(t, "B", "p4p1")
	outside, err := CallOutside()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close() })
	s := &station{h, &lab.Lab{B: h, Device: h.Device}, kernelOf(t, h), outside, home}
	leadOut(t)
	plugIn(t, h, "nic0", home)
	s.connect(t)
	return s
}

// connect sets the device up.
func (s *station) connect(t *testing.T) {
	t.Helper()
	device := s.Host.Device
	s.Must("ip", "link", "set", device, "address", NICMAC)
	setUp(t, s.Host, addresses[1]...)
	// Policies take neighbour discovery for what is to be encrypted.
	s.Must("ip", "neighbour", "replace", lab.A6.String(), "lladdr", HostMAC, "dev", device)
}

const bridgeName = "br0"

// leadOut joins the far end of the NIC's cable to the VM's network device. Both carry every
// frame as it is: nothing is to be gathered, or looked at, on the way.
func leadOut(t *testing.T) {
	t.Helper()
	must(t, "ip", "link", "add", bridgeName, "type", "bridge")
	t.Cleanup(func() { must(t, "ip", "link", "del", bridgeName) })
	must(t, "ip", "link", "set", bridgeName, "addrgenmode", "none", "up")
	bridge(t, "eth0")
	bridge(t, "nic1")
}

func bridge(t *testing.T, end string) {
	t.Helper()
	must(t, "ethtool", "-K", end, "gro", "off")
	must(t, "ip", "link", "set", end, "master", bridgeName, "addrgenmode", "none", "up")
}

// seen is what has come out of the VM.
func (s *station) seen(t *testing.T) Seen {
	t.Helper()
	seen, err := s.outside.Seen()
	if err != nil {
		t.Fatal(err)
	}
	return seen
}

// apply programs the kernel's SAD and SPD, and that of the host outside.
func (s *station) apply(t *testing.T, here, there string) {
	t.Helper()
	if err := s.outside.Apply(there); err != nil {
		t.Fatalf("the device outside: %v\n%s", err, there)
	}
	if err := lab.Apply(s.kernel, s.NS, here); err != nil {
		t.Fatalf("the kernel: %v\n%s", err, here)
	}
}

// holdEncap keeps a socket open by which the kernel takes ESP out of UDP (udp(7), UDP_ENCAP).
// Policies are not for what it receives.
func holdEncap(t *testing.T, h *lab.Host, addr netip.Addr) {
	t.Helper()
	var conn net.PacketConn
	err := h.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 4500)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	cerr := raw.Control(func(fd uintptr) {
		if err = bypass(int(fd), addr); err == nil {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_ENCAP, unix.UDP_ENCAP_ESPINUDP)
		}
	})
	if err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
}

// bypass gives a socket a policy of its own (uapi linux/in.h, IP_XFRM_POLICY).
func bypass(fd int, addr netip.Addr) error {
	const sizeofPolicyInfo = 168
	level, option, family := unix.IPPROTO_IP, unix.IP_XFRM_POLICY, uint16(unix.AF_INET)
	if addr.Is6() {
		level, option, family = unix.IPPROTO_IPV6, unix.IPV6_XFRM_POLICY, unix.AF_INET6
	}
	p := &xfrm.Policy{Dir: xfrm.PolicyIn, Action: xfrm.PolicyAllow, Limits: xfrm.NoLimits}
	p.Sel.Family = family
	payload, err := xfrm.EncodePolicy(p)
	if err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptString(fd, level, option, string(payload[:sizeofPolicyInfo])))
}

// pathMTU is the largest packet that leaves in one piece by a connected socket.
func pathMTU(conn syscall.Conn, v6 bool) (mtu int, err error) {
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, option) })
	if cerr != nil {
		return 0, cerr
	}
	return mtu, err
}
