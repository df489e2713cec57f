package probe

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/internal/netns"
)

// namespace is one with a cable p4p1–p4p2, a bridge and, where the kernel has them, more.
func namespace(t *testing.T) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("needs root: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	in(t, ns, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "p4p1", MTU: 1500}, PeerName: "p4p2"})
	})
	return ns
}

func in(t *testing.T, ns *netns.NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

// add adds a link; a kernel without its kind says so.
func add(t *testing.T, ns *netns.NS, l netlink.Link) bool {
	t.Helper()
	err := ns.Do(func() error { return netlink.LinkAdd(l) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Logf("this kernel has no %s", l.Type())
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

func index(t *testing.T, ns *netns.NS, name string) (n int) {
	t.Helper()
	in(t, ns, func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			n = l.Attrs().Index
		}
		return err
	})
	return n
}

// TestLinks: the kernel's links and addresses, with another library for a witness.
func TestLinks(t *testing.T) {
	ns := namespace(t)
	lower := index(t, ns, "p4p1")
	add(t, ns, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}})
	add(t, ns, &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mv0", ParentIndex: lower}})
	add(t, ns, &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "p4p1.100", ParentIndex: lower}, VlanId: 100})
	for name, mode := range map[string]netlink.BondMode{"bond0": netlink.BOND_MODE_ACTIVE_BACKUP, "bond1": netlink.BOND_MODE_802_3AD} {
		bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: name})
		bond.Mode = mode
		add(t, ns, bond)
	}
	other := namespace(t)
	in(t, ns, func() error {
		br, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		p, err := netlink.LinkByName("p4p2")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(p, br); err != nil {
			return err
		}
		one, err := netlink.LinkByName("p4p1")
		if err != nil {
			return err
		}
		for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
			ip, network, err := net.ParseCIDR(a)
			if err != nil {
				return err
			}
			network.IP = ip
			if err := netlink.AddrAdd(one, &netlink.Addr{IPNet: network, Flags: unix.IFA_F_NODAD}); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
				return err
			}
		}
		// A cable whose other end is elsewhere.
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out0"}, PeerName: "in0", PeerNamespace: netlink.NsFd(other.Fd())})
	})
	var got []Link
	var want []netlink.Link
	addresses := make(map[int][]netip.Prefix)
	in(t, ns, func() (err error) {
		if got, err = here().Links(); err != nil {
			return err
		}
		if want, err = netlink.LinkList(); err != nil {
			return err
		}
		all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
		for _, a := range all {
			addr, _ := netip.AddrFromSlice(a.IP)
			bits, _ := a.Mask.Size()
			addresses[a.LinkIndex] = append(addresses[a.LinkIndex], netip.PrefixFrom(addr.Unmap(), bits))
		}
		return err
	})
	if len(got) != len(want) || len(got) < 5 {
		t.Fatalf("%d links, want %d", len(got), len(want))
	}
	for i, l := range got {
		w := want[i].Attrs()
		if l.Index != w.Index || l.Name != w.Name || l.MTU != w.MTU || l.Master != w.MasterIndex || l.Up != (w.Flags&net.FlagUp != 0) || l.Loopback != (w.Flags&net.FlagLoopback != 0) {
			t.Errorf("%+v\nwant %+v", l, w)
		}
		if kind := want[i].Type(); kind != "device" && l.Kind != kind || kind == "device" && l.Kind != "" {
			t.Errorf("%s: kind %q, want %q", l.Name, l.Kind, kind)
		}
		by := func(a, b netip.Prefix) int { return cmp.Compare(a.String(), b.String()) }
		slices.SortFunc(l.Addresses, by)
		slices.SortFunc(addresses[l.Index], by)
		if !slices.Equal(l.Addresses, addresses[l.Index]) {
			t.Errorf("%s: addresses %v, want %v", l.Name, l.Addresses, addresses[l.Index])
		}
		switch l.Name {
		case "mv0", "p4p1.100":
			if l.Lower != lower || l.Elsewhere {
				t.Errorf("%+v is not on p4p1", l)
			}
		case "out0":
			if !l.Elsewhere {
				t.Errorf("%+v is not seen to end elsewhere", l)
			}
		}
		if l.Name == "p4p1.100" && l.VLAN != 100 || l.Name == "bond0" && l.BondMode != "active-backup" || l.Name == "bond1" && l.BondMode != "802.3ad" {
			t.Errorf("%+v", l)
		}
	}
}

// TestKernelNetwork asks the kernel about a cable, whatever can be asked.
func TestKernelNetwork(t *testing.T) {
	ns := namespace(t)
	in(t, ns, func() error {
		for _, name := range []string{"p4p1", "p4p2"} {
			l, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(l)
			}
			if err != nil {
				return err
			}
		}
		n := here()
		if d, err := n.Driver("p4p1"); err != nil || d.Name != "veth" || d.Bus != "" {
			t.Errorf("driver: %+v, %v", d, err)
		}
		if f, err := n.Features("p4p1"); err != nil || f[espOffload].String() != "off [fixed]" || len(f) < 20 {
			t.Errorf("features: %v, %v", f, err)
		}
		if c, err := n.Counters("p4p1"); err != nil || len(c) == 0 {
			t.Errorf("counters: %v, %v", c, err)
		}
		if s, err := n.Speed("p4p1"); err != nil || s != 10000 {
			t.Errorf("speed: %d, %v", s, err)
		}
		if q, err := n.Queues("p4p1"); err != nil || q.Receive < 1 || q.MaxReceive < q.Receive || q.Combined != 0 || q.MaxCombined != 0 {
			t.Errorf("queues: %+v, %v", q, err)
		}
		if _, err := n.Devlink(); err != nil {
			t.Errorf("devlink: %v", err)
		}
		if c, err := n.Chains(); err != nil || len(c) != 0 {
			t.Errorf("chains: %v, %v", c, err)
		}
		// What is not there, or cannot be asked, is an error, and of the right kind.
		if _, err := n.Features("nothing"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("features of nothing: %v", err)
		}
		if _, err := n.Driver(strings.Repeat("x", 100)); err == nil {
			t.Error("a name too long was asked")
		}
		if c, err := n.Counters("lo"); err != nil || len(c) != 0 {
			t.Errorf("counters of lo: %v, %v", c, err)
		}
		if s, err := n.Speed("lo"); err != nil || s != 0 {
			t.Errorf("speed of lo: %d, %v", s, err)
		}
		if _, err := n.Queues("lo"); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("queues of lo: %v", err)
		}
		return nil
	})
}

// TestHereInNamespace runs the layers in a namespace with a rule that drops protocol 50, and with
// disable_xfrm set.
func TestHereInNamespace(t *testing.T) {
	ns := namespace(t)
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("needs nft")
	}
	examine := func() (answers map[string]Check) {
		answers = make(map[string]Check)
		in(t, ns, func() error {
			s := newSurvey(System{Root: os.DirFS("/"), Network: here()})
			for _, l := range []Layer{nicLayer(s, "p4p1"), driverLayer(s, "p4p1"), topologyLayer(s, "p4p1"), hostNetworkLayer(s)} {
				for _, c := range l.Checks {
					answers[c.ID] = c
				}
			}
			return nil
		})
		return answers
	}
	before := examine()
	for id, want := range map[string]Answer{
		"nic.driver": No, "driver.esp-offload": No, "topology.kind": No, "topology.mtu": Yes, "topology.disable-xfrm": Yes,
		"topology.firewall-esp": Yes, "topology.firewall-udp": Yes, "host.ike-ports": Yes,
	} {
		if c := before[id]; c.Answer != want {
			t.Errorf("%s: %s (%s), want %s", id, c.Answer, c.Why, want)
		}
	}
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(`table inet t { chain i { type filter hook input priority 0; iifname "p4p1" meta l4proto esp drop; }; }`)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	in(t, ns, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/p4p1/disable_xfrm", []byte("1"), 0); err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return unix.Bind(fd, &unix.SockaddrInet4{Port: natPort})
	})
	after := examine()
	for id, want := range map[string]string{
		"topology.firewall-esp": `ESP coming in over IPv4 is dropped by inet t i`,
		"topology.disable-xfrm": "disable_xfrm is set for p4p1: what leaves by p4p1 is not encrypted and goes out in clear",
	} {
		if c := after[id]; c.Answer != No || c.Why != want {
			t.Errorf("%s: %s %q, want %q", id, c.Answer, c.Why, want)
		}
	}
	if e := after["topology.firewall-esp"].Evidence; len(e) != 1 || e[0] != (Evidence{"nft -a list chain inet t i", `iifname "p4p1" meta l4proto esp drop # handle 2`}) {
		t.Errorf("%+v", e)
	}
	if c := after["topology.firewall-udp"]; c.Answer != Yes {
		t.Errorf("UDP: %s (%s)", c.Answer, c.Why)
	}
	if c := after["host.ike-ports"]; c.Answer != No || !strings.Contains(c.Why, "UDP 4500 is ") {
		t.Errorf("the port is taken: %s (%s)", c.Answer, c.Why)
	}
}

func TestParseUDP(t *testing.T) {
	text := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n" +
		" 4542: 00000000:1194 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 23456 2 0000000000000000 0\n" +
		" 9999: 00000000000000000000000000000000:01F4 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 23457 2 0 0\n" +
		"broken\n 1: 2:zzzz 3 4 5 6 7 8 9 10\n"
	got := parseUDP([]byte(text))
	if len(got) != 2 || got[0].port != 4500 || got[0].inode != "23456" || got[1].port != 500 || got[1].inode != "23457" {
		t.Errorf("%+v", got)
	}
}

func TestIsPCI(t *testing.T) {
	for address, want := range map[string]bool{
		"0000:3b:00.0": true, "10000:01:00.1": true, "": false, "virtio0": false, "mlx5_core.sf.4": false, "../../etc": false, "0000:3b:00.0/../..": false, "eth0": false,
	} {
		if isPCI(address) != want {
			t.Errorf("%q: %v", address, !want)
		}
	}
}

// FuzzNetlink: whatever a kernel may send.
func FuzzNetlink(f *testing.F) {
	f.Add(make([]byte, 16))
	f.Add(append(make([]byte, 16), 8, 0, 4, 0, 0xdc, 5, 0, 0, 12, 0, 18, 0x80, 8, 0, 1, 0, 'v', 'l', 0, 0))
	f.Add(append(make([]byte, 4), 8, 0, 3, 0, 1, 0, 0, 0, 20, 0, 145, 0x80, 12, 0, 4, 0, 4, 0, 0, 0, 12, 0, 0, 0))
	f.Add(append([]byte{2, 24, 0, 0, 1, 0, 0, 0}, 8, 0, 1, 0, 192, 0, 2, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := decodeLink(b); err == nil && l.Lower == l.Index && l.Index != 0 && !l.Elsewhere {
			t.Errorf("%+v sits on itself", l)
		}
		_, p, err := decodeAddress(b)
		if err == nil && p.IsValid() && p.Bits() > p.Addr().BitLen() {
			t.Errorf("%v", p)
		}
		_, _, _ = decodeDevlinkPort(b)
		for _, u := range parseUDP(b) {
			_ = u.inode
		}
		_ = isPCI(string(b))
	})
}

// TestIKENamespace: an IKE daemon counts where its network namespace is this host's.
func TestIKENamespace(t *testing.T) {
	ns, other := namespace(t), namespace(t)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	charon := filepath.Join(t.TempDir(), "charon")
	if err := os.WriteFile(charon, program, 0o755); err != nil {
		t.Fatal(err)
	}
	ask := func() (c Check) {
		in(t, ns, func() error { c = newSurvey(System{Root: os.DirFS("/"), Network: here()}).ikeCheck(); return nil })
		return c
	}
	for _, run := range []struct {
		where *netns.NS
		want  Answer
	}{{other, Yes}, {ns, No}} {
		cmd := exec.Command(charon, "60")
		if err := run.where.Start(cmd); err != nil {
			t.Fatal(err)
		}
		file := fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid)
		for range 1000 { // until it has become the program
			if comm, _ := os.ReadFile(file); string(comm) == "charon\n" {
				break
			}
			time.Sleep(time.Millisecond)
		}
		c := ask()
		cmd.Process.Kill()
		cmd.Wait()
		if c.Answer != run.want || !slices.ContainsFunc(c.Evidence, func(e Evidence) bool { return e.Source == file }) {
			t.Errorf("%s, want %s: %+v", c.Answer, run.want, c)
		}
	}
}
