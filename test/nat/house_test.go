package nat

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/internal/netns"
	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// ends are the addresses of one family.
type ends struct {
	table   string     // nftables' name of the family
	inside  netip.Addr // A, behind the NAT
	gate    netip.Addr // the NAT's inside
	public  netip.Addr // what A looks like from outside
	outside netip.Addr // B
}

var (
	ends4 = ends{"ip", netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}
	ends6 = ends{"ip6", netip.MustParseAddr("fd00:1::2"), netip.MustParseAddr("fd00:1::1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
)

// forgets is after how long the NAT forgets, in seconds.
const forgets = 3

// house is A behind a NAT, and B.
type house struct {
	ends
	t       *testing.T
	a, b    *lab.Host
	router  *lab.Host
	port    int        // that the NAT gives A's encapsulation
	options string     // of A's SA for sending
	source  netip.Addr // that B takes for what A's packets had; invalid: unknown
}

func newHouse(t *testing.T, e ends) *house {
	t.Helper()
	lab.Root(t)
	lab.Tools(t, "ip", "nft", "ping", "sysctl")
	h := &house{ends: e, t: t, a: lab.NewHost(t, "A", "p4p1"), b: lab.NewHost(t, "B", "p4p1"), router: lab.NewHost(t, "NAT", "wan0")}
	for _, c := range [][2]netns.End{
		{end(h.a, "p4p1", e.inside), end(h.router, "lan0", e.gate)},
		{end(h.b, "p4p1", e.outside), end(h.router, "wan0", e.public)},
	} {
		if err := netns.Cable(c[0], c[1]); err != nil {
			t.Fatal(err)
		}
	}
	h.a.Must("ip", "route", "add", "default", "via", e.gate.String())
	h.router.Must("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	h.translate(20000)
	h.router.Must("sysctl", "-q", "-w", fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout=%d", forgets),
		fmt.Sprintf("net.netfilter.nf_conntrack_udp_timeout_stream=%d", forgets))
	for _, host := range []*lab.Host{h.a, h.b} {
		host.StartDevice()
	}
	return h
}

func end(h *lab.Host, name string, a netip.Addr) netns.End {
	return netns.End{NS: h.NS, Name: name, Addresses: []netip.Prefix{netip.PrefixFrom(a, a.BitLen()-8)}}
}

// translate makes the NAT give A this port from now on, and forget what it gave before.
func (h *house) translate(port int) {
	h.t.Helper()
	h.port = port
	h.router.Must("nft", fmt.Sprintf(`add table %[1]s nat; flush table %[1]s nat;
		add chain %[1]s nat post { type nat hook postrouting priority srcnat; };
		add rule %[1]s nat post oifname "wan0" meta l4proto udp masquerade to :%[2]d;
		add chain %[1]s nat in { type filter hook input priority filter; };
		add rule %[1]s nat in iifname "wan0" meta l4proto udp drop;`, h.table, port)) // what is for nobody leaves no trace
	err := h.router.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		h.t.Fatalf("flush the NAT's connections: %v", err)
	}
}

// remembers reports whether the NAT knows A's encapsulation.
func (h *house) remembers() bool {
	h.t.Helper()
	var table []byte
	err := h.router.Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/nf_conntrack")
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Contains(string(table), fmt.Sprintf("dst=%s sport=4500 dport=%d", h.public, h.port))
}

// sas are the commands for both SAs of A, or of B: each names the ends as it sees them. B sends to
// the port that the NAT shows. verb is add or update.
func (h *house) sas(host *lab.Host, verb string) string {
	to, from, peerPort := h.outside, h.inside, 4500
	out, in, options, original := 0x1000, 0x1001, h.options, netip.IPv4Unspecified()
	if host == h.b {
		to, from, peerPort = h.public, h.outside, h.port
		out, in, options = in, out, ""
		if h.source.IsValid() {
			original = h.source
		}
	}
	const sa = "ip xfrm state %s src %s dst %s proto esp spi %#x reqid %#x mode transport aead rfc4106(gcm(aes)) 0x%072x 128 encap espinudp %d %d %s dir %s %s\n"
	return fmt.Sprintf(sa, verb, to, from, in, in, in, peerPort, 4500, original, "in", "replay-window 64 mapping-maxage 60") +
		fmt.Sprintf(sa, verb, from, to, out, out, out, 4500, peerPort, "0.0.0.0", "out", options)
}

func (h *house) policies(host *lab.Host) string {
	us, peer, out, in := h.inside, h.outside, 0x1000, 0x1001
	if host == h.b {
		us, peer, out, in = h.outside, h.public, in, out
	}
	const policy = "ip xfrm policy add src %s dst %s dir %s tmpl proto esp reqid %#x mode transport\n"
	return fmt.Sprintf(policy, us, peer, "out", out) + fmt.Sprintf(policy, peer, us, "in", in)
}

// program installs SAs and policies on both hosts, with these options for A's SA for sending. B is
// ready when A's first keepalive comes.
func (h *house) program(options string) {
	h.t.Helper()
	h.options = options
	for _, host := range []*lab.Host{h.a, h.b} {
		host.Xfrm("policy", "flush")
		host.Xfrm("state", "flush")
	}
	for _, host := range []*lab.Host{h.b, h.a} {
		host.Batch(h.sas(host, "add") + h.policies(host))
	}
}

// monitor is `espalier xfrm monitor` on a host.
type monitor struct {
	t     *testing.T
	lines chan string
}

func newMonitor(t *testing.T, h *lab.Host) *monitor {
	t.Helper()
	cmd := exec.Command(lab.Binary(t), "xfrm", "--sad", "unix:"+h.Socket, "monitor")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	m := &monitor{t: t, lines: make(chan string, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			select {
			case m.lines <- scan.Text():
			default:
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	})
	for range 100 { // until it listens
		h.Must(lab.Binary(t), "xfrm", "--sad", "unix:"+h.Socket, "policy", "update", "src", "203.0.113.1", "dst", "203.0.113.2", "dir", "in")
		if len(m.lines) > 0 {
			break
		}
	}
	return m
}

// wait waits for a line.
func (m *monitor) wait(want string) {
	m.t.Helper()
	for end := time.After(10 * time.Second); ; {
		select {
		case line := <-m.lines:
			if line == want {
				return
			}
		case <-end:
			m.t.Errorf("the monitor did not say %q", want)
			return
		}
	}
}
