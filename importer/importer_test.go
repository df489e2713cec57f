package importer

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"espalier/config"
	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/script"
)

// scriptsOf writes what a file says as a script for each host, as one would by hand. Whatever is left to the hosts must
// be said in it.
func scriptsOf(t *testing.T, f *config.File) (sources []Source) {
	t.Helper()
	names := new(script.Interfaces)
	opt := xfrm.FormatOptions{ShowKey: true, InterfaceName: names.Name}
	lines := map[netip.Addr]*strings.Builder{}
	var order []netip.Addr
	of := func(h *config.Host) *strings.Builder {
		if lines[h.Address] == nil {
			lines[h.Address] = new(strings.Builder)
			order = append(order, h.Address)
		}
		return lines[h.Address]
	}
	spi := ipsec.SPI(0x1000)
	for i := range f.Tunnels {
		tunnel := &f.Tunnels[i]
		for _, p := range tunnel.Pairs {
			for _, l := range p.Lanes {
				for _, way := range []struct{ from, to *config.Host }{{p.A, p.B}, {p.B, p.A}} {
					spi++
					key := ipsec.RandomKey(int(tunnel.KeySize)/8 + 4)
					for _, at := range []*config.Host{way.from, way.to} {
						s := stateOf(tunnel, way.from, way.to, at == way.from, names)
						s.SPI, s.Reqid, s.AEAD.Key = spi, l.RequestID, key
						fmt.Fprintln(of(at), xfrm.FormatState(s, opt))
						for _, e := range l.Protect {
							sel := e.Selector
							if way.from == p.B {
								sel = config.Mirror(sel)
							}
							pol := policyOf(tunnel, sel, at == way.from, e.Priority)
							mode := map[config.Mode]xfrm.Mode{config.TunnelMode: xfrm.ModeTunnel}[tunnel.Mode]
							pol.Tmpls = []xfrm.Tmpl{{Src: way.from.Address, Dst: way.to.Address, Proto: 50, Reqid: l.RequestID, Mode: mode}}
							fmt.Fprintln(of(at), xfrm.FormatPolicy(pol, opt))
						}
					}
				}
			}
			for _, e := range p.Bypass {
				for _, at := range []*config.Host{p.A, p.B} {
					for _, sel := range []ipsec.Selector{e.Selector, config.Mirror(e.Selector)} {
						fmt.Fprintln(of(at), xfrm.FormatPolicy(policyOf(tunnel, sel, (at == p.A) == (sel == e.Selector), e.Priority), opt))
					}
				}
			}
		}
	}
	for _, a := range order {
		sources = append(sources, Source{Name: a.String() + ".sh", Text: lines[a].String()})
	}
	return sources
}

func stateOf(t *config.Tunnel, from, to *config.Host, sends bool, names *script.Interfaces) *xfrm.State {
	s := &xfrm.State{Src: from.Address, Dst: to.Address, Proto: 50, Limits: xfrm.NoLimits, IfID: t.IfID, AEAD: &xfrm.AEAD{Name: xfrm.AEADName, ICVBits: 128}}
	if t.Mode == config.TunnelMode {
		s.Mode = xfrm.ModeTunnel
	}
	if t.ESN == config.On {
		s.Flags = xfrm.FlagESN
	}
	s.Dir = xfrm.StateDirOut
	here := from
	if !sends {
		s.Dir, s.ReplayWindow, here = xfrm.StateDirIn, uint32(t.Window), to
	}
	if t.Offload != config.NoOffload {
		index, _ := names.Index(here.Dev)
		s.Offload = &xfrm.Offload{Ifindex: int32(index)}
		if !sends {
			s.Offload.Flags |= xfrm.OffloadInbound
		}
		if t.Offload == config.PacketOffload {
			s.Offload.Flags |= xfrm.OffloadPacket
		}
	}
	if t.Encap.Type == config.UDPEncap {
		s.Encap = &xfrm.EncapTmpl{Type: xfrm.EncapESPInUDP, SrcPort: t.Encap.Port, DstPort: t.Encap.Port}
	}
	if t.Mark.Mask != 0 {
		s.Mark = &xfrm.Mark{Value: t.Mark.Value, Mask: t.Mark.Mask}
	}
	if t.OutputMark.Mask != 0 {
		s.OutputMark = &xfrm.Mark{Value: t.OutputMark.Value, Mask: t.OutputMark.Mask}
	}
	if l := t.Lifetime.Limits(); !l.IsZero() {
		or := func(v uint64) uint64 {
			if v == 0 {
				return xfrm.Infinity
			}
			return v
		}
		s.Limits = xfrm.LifetimeConfig{SoftBytes: or(l.SoftBytes), HardBytes: or(l.HardBytes), SoftPackets: or(l.SoftPackets), HardPackets: or(l.HardPackets),
			SoftAdd: uint64(l.SoftTime / time.Second), HardAdd: uint64(l.HardTime / time.Second)}
	}
	return s
}

func policyOf(t *config.Tunnel, sel ipsec.Selector, out bool, priority uint32) *xfrm.Policy {
	p := &xfrm.Policy{Dir: xfrm.PolicyIn, Priority: priority, Limits: xfrm.NoLimits, IfID: t.IfID}
	p.Sel.Selector = sel
	if out {
		p.Dir = xfrm.PolicyOut
	}
	if t.Mark.Mask != 0 {
		p.Mark = &xfrm.Mark{Value: t.Mark.Value, Mask: t.Mark.Mask}
	}
	return p
}

// said makes a file say what hosts would decide, and leaves out what scripts do not say.
func said(f *config.File) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		if t.ESN == config.Auto {
			t.ESN = config.On
		}
		if t.Window == 0 {
			t.Window = 128
		}
		if t.Offload == config.AutoOffload || t.Offload == config.RequireOffload {
			t.Offload = config.CryptoOffload
		}
		if t.Encap.Type == config.UDPEncap {
			t.Offload = config.NoOffload
		}
		t.Engine, t.SAs, t.Rotate = config.AnyEngine, config.SAs{}, config.Rotate{}
		for j := range t.Hosts {
			t.Hosts[j].SSH, t.Hosts[j].Sudo = nil, ""
		}
	}
}

// meaning is what a file says, whatever its tunnels are called and in what order its traffic stands.
func meaning(f *config.File) (all []map[string]any) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		for _, p := range t.Pairs {
			entries := func(of []config.Entry) (lines []string) {
				for _, e := range of {
					lines = append(lines, e.Selector.String())
				}
				slices.Sort(lines)
				return lines
			}
			var protect []string
			for _, l := range p.Lanes {
				protect = append(protect, entries(l.Protect)...)
			}
			all = append(all, map[string]any{
				"a": p.A.Address.String() + " " + p.A.Dev, "b": p.B.Address.String() + " " + p.B.Dev, "protect": protect, "bypass": entries(p.Bypass),
				"settings": fmt.Sprint(t.Mode, t.Encap, t.ESN, t.Window, t.KeySize, t.Lifetime, t.Mark, t.OutputMark, t.IfID, t.Offload),
			})
		}
	}
	return all
}

// TestRoundTrip: scripts of what a file says are imported as a file that says the same.
func TestRoundTrip(t *testing.T) {
	files := map[string]string{
		"ports": `tunnels:
- name: web
  hosts: [{address: 10.0.0.1, dev: eth0}, {address: 10.0.0.2, dev: eth1}]
  selectors: [tcp/22, {protocol: tcp, ports: [80, 443], at: 10.0.0.2}, {protocol: udp, ports: [53], at: 10.0.0.1}, sctp]
  bypass: [sctp/9]
  esn: off
  key-size: 128
  offload: no
- name: pings
  hosts: [10.0.0.1, 10.0.0.2]
  selectors: [icmp]
  offload: no
`,
		"sites": `tunnels:
- name: sites
  hosts: [{address: 10.0.0.1, dev: eth0, subnets: [10.1.0.0/16, 10.3.0.0/16]}, {address: 10.0.0.2, dev: eth0, subnets: [10.2.0.0/16, 10.4.0.0/16]}]
  selectors: [tcp]
  window: 4096
  offload: packet
- name: others
  hosts: [{address: 10.0.0.1, subnets: [10.5.0.0/16]}, {address: 10.0.0.2, subnets: [10.6.0.0/16]}]
  lifetime: {bytes: 1GiB, packets: 1000000, time: 1h, soft: {time: 50m, bytes: 500MiB, packets: 600000}}
`,
		"hosts in tunnel mode": `tunnels:
- name: t
  hosts: [{address: "2001:db8::1", dev: eth0}, {address: "2001:db8::2", dev: eth0}]
  mode: tunnel
  encap: udp
`,
	}
	files["sites"] = strings.Replace(files["sites"], "window: 4096", "window: 256", 1)
	for _, name := range config.Examples() {
		text, _ := config.Example(name)
		files[name] = string(text)
	}
	for name, text := range files {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			f, err := config.Parse(name, []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			said(f)
			sources := scriptsOf(t, f)
			r, err := Import(sources, Options{Devs: devs(f)})
			if err != nil {
				t.Fatalf("%v\n%s", err, sources[0].Text)
			}
			for _, remark := range r.Remarks {
				if remark.Lost {
					t.Errorf("lost: %+v", remark)
				}
			}
			if diff := cmp.Diff(sorted(meaning(f)), sorted(meaning(r.File)), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s\n%s", diff, r.Text)
			}
		})
	}
}

func sorted(all []map[string]any) []map[string]any {
	slices.SortFunc(all, func(a, b map[string]any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return all
}

// devs are those of hosts that offload nothing: scripts do not tell.
func devs(f *config.File) map[netip.Addr]string {
	m := map[netip.Addr]string{}
	for _, t := range f.Tunnels {
		for _, h := range t.Hosts {
			m[h.Address] = h.Dev
		}
	}
	return m
}

// TestVendorsPair: the NIC vendor's pair is one tunnel, whatever its templates say.
func TestVendorsPair(t *testing.T) {
	var sources []Source
	for _, name := range []string{"first-server.xfrm.sh", "second-server.xfrm.sh"} {
		text, err := os.ReadFile("../xfrm/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, Source{Name: name, Text: string(text)})
	}
	r, err := Import(sources, Options{})
	if err != nil {
		t.Fatal(err)
	}
	const want = `# From scripts of ip xfrm, by espalier import. Keys and SPIs are made anew.
tunnels:
- name: first-server-second-server
  hosts:
  - {address: 192.168.1.64, dev: enp4s0}
  - {address: 192.168.1.65, dev: enp4s0}
  esn: 'off'
  offload: crypto
`
	if string(r.Text) != want {
		t.Errorf("%s", r.Text)
	}
	for _, remark := range r.Remarks {
		if remark.Lost {
			t.Errorf("%+v", remark)
		}
	}
	// SAs alone, of one host.
	text, err := os.ReadFile("../xfrm/testdata/transmit-receive.xfrm.sh")
	if err != nil {
		t.Fatal(err)
	}
	r, err = Import([]Source{{Name: "tr.sh", Text: string(text)}}, Options{Name: "db", Devs: map[netip.Addr]string{netip.MustParseAddr("192.168.1.65"): "enp4s0"}})
	if err != nil || r.File.Tunnels[0].Name != "db" || r.File.Tunnels[0].Hosts[0].Dev != "p4p1" || r.File.Tunnels[0].Hosts[1].Dev != "enp4s0" || len(r.File.Tunnels[0].Pairs) != 1 {
		t.Errorf("%v\n%s", err, r.Text)
	}
}

// TestPieces: scripts of which a line is missing are a file that parses, or an error.
func TestPieces(t *testing.T) {
	for _, pair := range []string{"transport", "tunnel", "ipv6"} {
		var texts [2]string
		for i, name := range []string{"a", "b"} {
			text, err := os.ReadFile("../lint/testdata/correct/" + pair + "/" + name + ".xfrm")
			if err != nil {
				t.Fatal(err)
			}
			texts[i] = string(text)
		}
		lines := strings.SplitAfter(texts[0], "\n")
		for i := range lines {
			a := Source{Name: "a.sh", Text: strings.Join(slices.Concat(lines[:i], lines[i+1:]), "")}
			for _, sources := range [][]Source{{a}, {a, {Name: "b.sh", Text: texts[1]}}} {
				r, err := Import(sources, Options{Devs: map[netip.Addr]string{{}: "eth0"}})
				if err != nil || len(r.File.Tunnels) != 1 || len(r.File.Tunnels[0].Pairs) != 1 {
					t.Errorf("%s, %d scripts without line %d: %v", pair, len(sources), i+1, err)
				}
			}
		}
	}
}

// TestLost: what the file has no word for is told, with its line.
func TestLost(t *testing.T) {
	const head = "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1001 reqid 1 aead 'rfc4106(gcm(aes))' 0x" +
		"5555555555555555555555555555555555555555555555555555555555555555aabbccdd 128 flag esn offload dev eth0 dir out"
	const pol = "ip xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out tmpl src 10.0.0.1 dst 10.0.0.2 proto esp reqid 1"
	for _, c := range []struct{ sa, policy, more, want string }{
		{head, pol, "", ""},
		{head + " tfcpad 5", pol, "", "1 tfcpad: the file has no word for it"},
		{head + " flag nopmtudisc", pol, "", "1 flag nopmtudisc: the file has no word"},
		{strings.Replace(head, " 128 ", " 96 ", 1), pol, "", "1 an ICV of 96 bits"},
		{strings.Replace(head, "rfc4106(gcm(aes))", "rfc4309(ccm(aes))", 1), pol, "", "1 another algorithm"},
		{head + " limit byte-soft 5000000", pol, "", "1 a soft limit of bytes without a hard one"},
		{head + " limit time-hard 5", pol, "", "1 a limit of 5 seconds"},
		{head + " limit time-use-hard 500", pol, "", "1 limits of time since the first use"},
		{head, pol + " level use", "", "2 level use lets traffic pass in clear"},
		{head, pol, "ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out", "3 lets pass what is not a part"},
		{head, pol, "ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out action block", "3 traffic is blocked"},
		{head, strings.Replace(pol, "dst 10.0.0.2", "dst 10.0.0.0/24", 1), "", "2 in transport mode the selector is wider"},
		{head, strings.Replace(pol, "dst 10.0.0.2", "dst 10.0.0.2 proto icmp type 8", 1), "", "2 type and code"},
		{head, strings.Replace(pol, "dst 10.0.0.2", "dst 10.0.0.2 proto tcp sport 1 dport 2", 1), "", "2 ports of both ends"},
		{head, pol, "ip xfrm state add src $X", "3 left out, for it takes a shell"},
		{head, pol, "ip xfrm state add sorc", "3 left out, for ip refuses it"},
		{head, pol, "ip xfrm policy setdefault in block", "0 policy setdefault"},
		{strings.Replace(head, " offload dev eth0 dir out", " dir out", 1), pol, "", "2 which network device has 10.0.0.1 is not said"},
	} {
		options := Options{Devs: map[netip.Addr]string{netip.MustParseAddr("10.0.0.2"): "eth0"}}
		r, err := Import([]Source{{Name: "a.sh", Text: c.sa + "\n" + c.policy + "\n" + c.more + "\n"}}, options)
		if err != nil {
			t.Errorf("%s: %v", c.want, err)
			continue
		}
		var lost []string
		for _, remark := range r.Remarks {
			if remark.Lost {
				lost = append(lost, fmt.Sprintf("%d %s", remark.Line, remark.Text))
			}
		}
		if len(lost) != min(len(c.want), 1) || len(lost) == 1 && !strings.HasPrefix(lost[0], c.want) {
			t.Errorf("%q, want %q", lost, c.want)
		}
	}
	if _, err := Import([]Source{{Name: "a.sh", Text: "ip link show\nip xfrm state add src $X\n"}}, Options{}); err == nil || !strings.Contains(err.Error(), "a.sh:2") {
		t.Errorf("%v", err)
	}
}
