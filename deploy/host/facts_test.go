package host

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"espalier/internal/netns"
	"espalier/ipsec"
	"espalier/probe"
	"espalier/tun"
	"espalier/tunnel"
	"espalier/xfrm"
	"espalier/xfrm/client"
	"espalier/xfrm/server"
)

// database has one SA and one policy, and nothing else.
type database struct {
	ipsec.Database
	sa     ipsec.SA
	policy ipsec.Policy
}

func (d database) SAs(context.Context) iter.Seq2[ipsec.SA, error] {
	return func(yield func(ipsec.SA, error) bool) { yield(d.sa, nil) }
}

func (d database) Policies(context.Context) iter.Seq2[ipsec.Policy, error] {
	return func(yield func(ipsec.Policy, error) bool) { yield(d.policy, nil) }
}

func TestGatherFacts(t *testing.T) {
	ns, err := netns.New()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("needs root: %v", err)
	}
	defer ns.Close()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	policy := ipsec.Policy{
		Selector:  ipsec.Selector{Src: netip.PrefixFrom(a, 32), Dst: netip.PrefixFrom(b, 32)},
		Direction: ipsec.Outbound, Priority: 1000, Action: ipsec.Protect, Processing: []ipsec.Processing{{RequestID: 7}},
	}
	socket := filepath.Join(t.TempDir(), "some.sock")
	err = ns.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "p4p1", MTU: 1400}, PeerName: "p4p2"}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		address, _ := netlink.ParseAddr("192.0.2.1/24")
		if err := netlink.AddrAdd(veth, address); err != nil {
			return err
		}
		device, err := tun.Create("esp-p4p1", 3)
		if err != nil {
			return err
		}
		t.Cleanup(func() { device.Close() })
		c, err := client.Kernel()
		if err != nil {
			return err
		}
		defer c.Close()
		p, err := xfrm.PolicyFromIPsec(&policy)
		if err != nil {
			return err
		}
		return c.AddPolicy(t.Context(), p)
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	sa := ipsec.SA{
		Src: b, Dst: a, SPI: 0x12345678, RequestID: 7, Direction: ipsec.Inbound, Key: ipsec.NewKey([]byte(strings.Repeat("k", 20))), ICVBits: 128, ESN: true, Window: 64,
	}
	go func() {
		served <- server.New(database{sa: sa, policy: policy}, slog.New(slog.DiscardHandler)).Serve(ctx, l)
	}()
	defer func() {
		stop()
		if err := <-served; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()

	var f *tunnel.Facts
	ask := func(sad string) {
		t.Helper()
		if err := ns.Do(func() (err error) { f, err = GatherFacts(t.Context(), sad); return err }); err != nil {
			t.Fatal(err)
		}
	}
	ask("")
	d := f.Device("p4p1")
	if d == nil || d.MTU != 1400 || d.Driver != "veth" || !f.Has(a) || d.Crypto.Can != tunnel.No || d.Packet.Can != tunnel.No || f.Device("lo") != nil {
		t.Errorf("%+v", f.Devices)
	}
	kernel := f.Engine("kernel")
	if kernel == nil || len(f.Engines) != 1 || len(kernel.Policies) != 1 || kernel.Policies[0].Processing[0].RequestID != 7 || kernel.Policies[0].Other || kernel.Lanes < 1 {
		t.Errorf("%+v", f.Engines)
	}
	if f.BootID == "" || f.NetNS == 0 || f.Kernel == "" || f.Hostname == "" {
		t.Errorf("%+v", f)
	}

	ask("unix:" + socket)
	e := &f.Engines[0]
	if len(f.Engines) != 1 || e.Name != "unix:"+socket || e.Device != "p4p1" || e.Lanes != 3 {
		t.Fatalf("%+v", f.Engines)
	}
	if len(e.SAs) != 1 || e.SAs[0].SPI != sa.SPI || e.SAs[0].KeyBits != 128 || e.SAs[0].Direction != ipsec.Inbound || !e.SAs[0].ESN || e.SAs[0].Other || len(e.Policies) != 1 {
		t.Errorf("%+v", e)
	}
	text, err := json.Marshal(f)
	if err != nil || strings.Contains(string(text), "kkkk") {
		t.Errorf("%s %v", text, err)
	}
}

// Drivers say what their NICs do by a switch; what they do not do is known.
func TestOffloadsOfDrivers(t *testing.T) {
	can := probe.Ability{Answer: probe.Yes}
	abilities := &probe.Abilities{Crypto4: can, Crypto6: can, Packet: can}
	four := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	for _, c := range []struct {
		driver         string
		feature        probe.Feature
		crypto, packet tunnel.Can
		why            string
	}{
		{"mlx5_core", probe.Feature{Known: true, On: true}, tunnel.Yes, tunnel.Unknown, ""},
		{"mlx5_core", probe.Feature{Known: true}, tunnel.No, tunnel.No, "ethtool -K p4p1 esp-hw-offload on"},
		{"mlx5_core", probe.Feature{Known: true, Fixed: true}, tunnel.No, tunnel.No, "has no esp-hw-offload"},
		{"ixgbe", probe.Feature{Known: true, On: true}, tunnel.Yes, tunnel.No, ""},
		{"netdevsim", probe.Feature{Known: true, On: true}, tunnel.No, tunnel.No, "says that it encrypts and does not"},
		{"another", probe.Feature{Known: true, On: true}, tunnel.Yes, tunnel.Unknown, ""},
		{"", probe.Feature{}, tunnel.No, tunnel.No, "has no esp-hw-offload"},
	} {
		d := tunnel.Device{Name: "p4p1", Driver: c.driver, Addresses: four}
		d.Crypto = cryptoOffload(&d, c.feature, nil, abilities)
		d.Packet = packetOffload(&d, abilities)
		if d.Crypto.Can != c.crypto || d.Packet.Can != c.packet || !strings.Contains(d.Crypto.Why, c.why) {
			t.Errorf("%s %s: %+v %+v", c.driver, c.feature, d.Crypto, d.Packet)
		}
	}
	abilities.Crypto4 = probe.Ability{Answer: probe.No, Why: "kernel built without XFRM_OFFLOAD"}
	d := tunnel.Device{Name: "p4p1", Driver: "mlx5_core", Addresses: four}
	if got := cryptoOffload(&d, probe.Feature{Known: true, On: true}, nil, abilities); got.Can != tunnel.No || got.Why != abilities.Crypto4.Why {
		t.Errorf("%+v", got)
	}
}
