package config

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// same compares what files mean, not where it stands in them.
var sameMeaning = cmp.Options{
	cmpopts.IgnoreUnexported(Tunnel{}, Host{}), cmpopts.IgnoreFields(File{}, "Notes"),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// writtenOut: a file written out and read again is the same.
func writtenOut(t interface {
	Helper()
	Fatalf(string, ...any)
}, f *File,
) {
	t.Helper()
	text, err := f.YAML()
	if err != nil {
		t.Fatalf("%v", err)
	}
	again, err := Parse(f.Name, text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff(f, again, sameMeaning); diff != "" {
		t.Fatalf("%s\n%s", diff, text)
	}
}

func TestExamples(t *testing.T) {
	if names := fmt.Sprint(Examples()); names != "[full mesh tunnel two-hosts]" {
		t.Errorf("examples: %s", names)
	}
	for _, name := range Examples() {
		text, ok := Example(name)
		f, err := Parse(name, text)
		if !ok || err != nil {
			t.Errorf("example %s: %v", name, err)
			continue
		}
		writtenOut(t, f)
	}
	for _, name := range []string{"", "none", "../examples/mesh", "mesh.yaml", "*"} {
		if _, ok := Example(name); ok {
			t.Errorf("there is an example %q", name)
		}
	}
}

// TestWrittenOut: any file that is in order is the same when it is written out and read again.
func TestWrittenOut(t *testing.T) {
	inOrder := 0
	rapid.Check(t, func(t *rapid.T) {
		drawn := &File{Name: "f"}
		for i := range rapid.IntRange(1, 3).Draw(t, "tunnels") {
			drawn.Tunnels = append(drawn.Tunnels, drawTunnel(t, i))
		}
		text, err := drawn.YAML()
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse("f", text)
		if err != nil {
			return // what cannot be had together
		}
		inOrder++
		writtenOut(t, f)
	})
	if inOrder < 20 {
		t.Errorf("only %d files were in order", inOrder)
	}
}

func drawTunnel(t *rapid.T, number int) Tunnel {
	one := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	maybe := func(name string) bool { return rapid.Bool().Draw(t, name) }
	tunnel := Tunnel{Name: fmt.Sprintf("t%d", number)}
	subnets := maybe("subnets")
	for i := range rapid.IntRange(2, 4).Draw(t, "hosts") {
		h := Host{Address: netip.AddrFrom4([4]byte{192, 0, byte(number), byte(i + 1)}), Dev: "eth0", Sudo: Switch(one("sudo", "", "auto", "on", "off"))}
		if subnets {
			h.Subnets = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(number), byte(i), 0}), 24)}
		}
		if maybe("ssh") {
			h.SSH = &SSH{To: "root@db", Port: uint16(rapid.IntRange(0, 1).Draw(t, "ssh port")) * 2222, Identity: one("identity", "", "~/.ssh/id", "a: b # 'c'"), Jump: one("jump", "", "gw")}
		}
		tunnel.Hosts = append(tunnel.Hosts, h)
	}
	traffic := rapid.Custom(func(t *rapid.T) Traffic {
		tr := Traffic{Protocol: Protocol(rapid.SampledFrom([]uint8{0, 1, 6, 17, 132, 200}).Draw(t, "protocol"))}
		if tr.Protocol.hasPorts() {
			tr.Ports = rapid.SliceOfNDistinct(rapid.Uint16Range(1, 65535), 0, 3, rapid.ID).Draw(t, "ports")
		}
		if len(tr.Ports) > 0 && rapid.Bool().Draw(t, "at") {
			tr.At = tunnel.Hosts[0].Address
		}
		return tr
	})
	if maybe("selectors") {
		tunnel.Selectors = rapid.SliceOfN(traffic, 1, 2).Draw(t, "selectors")
	}
	if maybe("bypass") {
		tunnel.Bypass = []Traffic{{Protocol: 132, Ports: []uint16{7}}}
		if len(tunnel.Selectors) > 0 {
			tunnel.Selectors = []Traffic{{Protocol: 132}}
		}
	}
	tunnel.Mode = Mode(one("mode", "", "tunnel"))
	tunnel.Encap = Encap{Type: EncapType(one("encap", "", "none", "udp"))}
	if tunnel.Encap.Type == UDPEncap {
		tunnel.Encap.Port = rapid.Uint16().Draw(t, "port")
	}
	tunnel.ESN = Switch(one("esn", "", "auto", "on", "off"))
	tunnel.Window = Window(rapid.SampledFrom([]uint32{0, 32, 64, 1000, 4096}).Draw(t, "window"))
	tunnel.KeySize = rapid.SampledFrom([]uint16{0, 128, 256}).Draw(t, "key size")
	seconds := func(name string, from, to int) Duration {
		return Duration(time.Duration(rapid.IntRange(from, to).Draw(t, name)) * time.Second)
	}
	if maybe("lifetime") {
		tunnel.Lifetime = Lifetime{Time: seconds("time", 0, 200) * 1000, Bytes: Bytes(rapid.Uint64Range(1<<20, 1<<63).Draw(t, "bytes")), Packets: rapid.Uint64Range(1000, 1<<32-1).Draw(t, "packets")}
		tunnel.Lifetime.Soft.Share = Percent(rapid.IntRange(0, 99).Draw(t, "share"))
		if tunnel.Lifetime.Packets > 1 && maybe("soft") {
			tunnel.Lifetime.Soft.Packets = rapid.Uint64Range(1, tunnel.Lifetime.Packets-1).Draw(t, "soft packets")
		}
	}
	if maybe("rotate") {
		tunnel.Rotate = Rotate{Every: seconds("every", 60, 100000), AtMostShare: Percent(rapid.IntRange(0, 90).Draw(t, "at most"))}
		if !tunnel.Lifetime.limited() && maybe("never") {
			tunnel.Rotate, tunnel.ESN = Rotate{Every: Never}, On
		}
	}
	mark := func(name string) Mark {
		mask := rapid.Uint32().Draw(t, name+" mask")
		return Mark{rapid.Uint32().Draw(t, name) & mask, mask}
	}
	tunnel.Engine = Engine(one("engine", "", "auto", "kernel", "userspace"))
	tunnel.Offload = Offload(one("offload", "", "no", "auto"))
	if tunnel.Engine != Userspace && tunnel.Encap.Type != UDPEncap {
		tunnel.Offload = Offload(one("any offload", "", "no", "crypto", "packet", "auto", "require"))
	}
	if tunnel.Engine != Userspace && maybe("marks") {
		tunnel.Mark, tunnel.OutputMark, tunnel.IfID = mark("mark"), mark("output mark"), rapid.Uint32().Draw(t, "if_id")
	}
	tunnel.SAs = rapid.SampledFrom([]SAs{{}, {SpreadCount, 1}, {SpreadCount, 16}}).Draw(t, "sas")
	if tunnel.Engine != Userspace && maybe("per CPU") {
		tunnel.SAs = SAs{By: SpreadCPU}
	} else if len(tunnel.Selectors) > 0 && maybe("by ports") {
		tunnel.SAs = SAs{By: SpreadPorts}
	}
	return tunnel
}

// TestShort: what is written for a person has only what was said.
func TestShort(t *testing.T) {
	f := File{Tunnels: []Tunnel{{Name: "db", Hosts: []Host{
		{Address: netip.MustParseAddr("192.168.1.64"), Dev: "p4p1"},
		{Address: netip.MustParseAddr("192.168.1.65"), Dev: "enp4s0", SSH: &SSH{To: "root@db2"}},
	}, Settings: Settings{Offload: AutoOffload}}}}
	const want = `tunnels:
- name: db
  hosts:
  - {address: 192.168.1.64, dev: p4p1}
  - {address: 192.168.1.65, dev: enp4s0, ssh: root@db2}
  offload: auto
`
	if text, err := f.YAML(); err != nil || string(text) != want {
		t.Errorf("%v\n%s", err, text)
	}
	if again := parsed(t, want); again.Tunnels[0].Hosts[1].SSH.To != "root@db2" {
		t.Errorf("%+v", again)
	}
}
