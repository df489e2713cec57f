package path

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"

	"espalier/dataplane"
	"espalier/esp"
	"espalier/internal/netns"
	"espalier/ipsec"
)

const underlayName = "p4p1"

var gatewayA, gatewayB = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")

// device is a userspace device with so many tunnels, in a network namespace of its own. It is never
// run: its packets are in memory.
type device struct {
	*dataplane.Device
	direction string
	tunnels   int
	dir       string
	ns, far   *netns.NS
	peer      *esp.Outbound // see sender
}

func newDevice(direction string, tunnels int) (_ *device, err error) {
	d := &device{direction: direction, tunnels: tunnels}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.dir, err = os.MkdirTemp("", "espalier-bench-"); err != nil {
		return nil, err
	}
	if d.far, err = netns.New(); err != nil {
		return nil, err
	}
	if d.ns, err = netns.New(); err != nil {
		return nil, err
	}
	err = netns.Cable(
		netns.End{NS: d.ns, Name: underlayName, Addresses: []netip.Prefix{netip.PrefixFrom(gatewayA, 24)}},
		netns.End{NS: d.far, Name: underlayName, Addresses: []netip.Prefix{netip.PrefixFrom(gatewayB, 24)}},
	)
	if err != nil {
		return nil, err
	}
	err = d.ns.Do(func() (err error) {
		d.Device, err = dataplane.New(dataplane.Config{Underlay: underlayName, StateDir: d.dir, Log: slog.New(slog.DiscardHandler)})
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range tunnels {
		if err := errors.Join(d.AddSA(context.Background(), d.sa(i)), d.AddPolicy(context.Background(), d.policy(i))); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// close may be called at any stage of newDevice.
func (d *device) close() {
	if d.Device != nil {
		d.ns.Do(d.Device.Close)
	}
	for _, ns := range []*netns.NS{d.ns, d.far} {
		if ns != nil {
			ns.Close()
		}
	}
	os.RemoveAll(d.dir)
}

// sa is that of the n-th tunnel.
func (d *device) sa(n int) ipsec.SA {
	key := make([]byte, 20)
	key[0], key[1], key[2], key[3] = 1, byte(n>>16), byte(n>>8), byte(n)
	sa := ipsec.SA{
		Src: gatewayA, Dst: gatewayB, SPI: ipsec.SPI(n + 0x1000), Mode: ipsec.Tunnel, Direction: ipsec.Outbound,
		RequestID: uint32(n + 1), Key: ipsec.NewKey(key), ICVBits: 128,
	}
	if d.direction == "inbound" {
		sa.Src, sa.Dst, sa.Direction, sa.Window = gatewayB, gatewayA, ipsec.Inbound, 64
	}
	return sa
}

// policy protects the traffic between two hosts behind the gateways, by the n-th tunnel.
func (d *device) policy(n int) ipsec.Policy {
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	sa, f := d.sa(n), flow(n)
	p := ipsec.Policy{
		Direction: ipsec.Outbound, Action: ipsec.Protect,
		Selector:   ipsec.Selector{Src: host(f.Src), Dst: host(f.Dst)},
		Processing: []ipsec.Processing{{Src: sa.Src, Dst: sa.Dst, RequestID: sa.RequestID, Mode: ipsec.Tunnel}},
	}
	if d.direction == "inbound" {
		p.Direction = ipsec.Forward
		p.Selector.Src, p.Selector.Dst = p.Selector.Dst, p.Selector.Src
	}
	return p
}

// flow is what the n-th policy protects.
func flow(n int) ipsec.Flow {
	return ipsec.Flow{Src: inner(10, n), Dst: inner(11, n), Protocol: 17, SrcPort: 1000, DstPort: 443}
}

// inner is the n-th of 2^24 addresses below a first byte.
func inner(first byte, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{first, byte(n >> 16), byte(n >> 8), byte(n)})
}
