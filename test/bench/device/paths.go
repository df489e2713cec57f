package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"espalier/test/bench/device/hosts"
	"espalier/test/bench/device/traffic"
	"espalier/test/bench/device/wireguard"
	"espalier/test/lab"
)

// What is compared, by the names that results have.
const (
	cable      = "veth"
	wg         = wireguard.Name
	udp4       = "ESP in UDP"
	esp4       = "protocol 50"
	udp6       = "ESP in UDP, IPv6"
	esp6       = "protocol 50, IPv6"
	bareRaw    = "bare, raw sockets"
	barePacket = "bare, packet sockets"
)

var (
	devices = []string{udp4, esp4, udp6, esp6}
	bares   = []string{bareRaw, barePacket}
)

// path is a way from one host to another.
type path struct {
	*hosts.Pair
	to        netip.Addr // B by this way
	processes []*hosts.Process
}

func (p *path) alive() error {
	for _, x := range p.processes {
		if err := x.Alive(); err != nil {
			return err
		}
	}
	return nil
}

// open makes all paths, each between hosts of its own.
func (b *bench) open(ctx context.Context, dir string, programs programs) error {
	b.paths = make(map[string]*path)
	espalier := func(sas lab.Pair) func(context.Context, *path) error {
		sas.KeyBits = 128
		return func(ctx context.Context, p *path) (err error) {
			_, p.to = sas.Ends()
			if p.processes, err = p.StartDevices(ctx, programs.espalier); err != nil {
				return err
			}
			return p.Program(ctx, sas)
		}
	}
	bare := func(via string) func(context.Context, *path) error {
		return func(ctx context.Context, p *path) error { return startBare(ctx, p, programs.bare, via) }
	}
	for _, x := range []struct {
		name  string
		start func(context.Context, *path) error
	}{
		{cable, func(_ context.Context, p *path) error { p.to = lab.B4; return nil }},
		{wg, func(ctx context.Context, p *path) (err error) {
			p.to = wireguard.B
			p.processes, err = wireguard.Start(ctx, p.Pair, programs.wireguard)
			return err
		}},
		{udp4, espalier(lab.Pair{UDP: true})},
		{esp4, espalier(lab.Pair{})},
		{udp6, espalier(lab.Pair{UDP: true, V6: true})},
		{esp6, espalier(lab.Pair{V6: true})},
		{bareRaw, bare("raw")},
		{barePacket, bare("packet")},
	} {
		if err := b.openPath(ctx, filepath.Join(dir, x.name), x.name, x.start); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	return nil
}

func (b *bench) openPath(ctx context.Context, dir, name string, start func(context.Context, *path) error) error {
	progress("setting up %s", name)
	pair, err := hosts.New(dir)
	if err != nil {
		return err
	}
	p := &path{Pair: pair}
	b.paths[name] = p
	if err := start(ctx, p); err != nil {
		return err
	}
	return errors.Join(traffic.Await(ctx, p.A, p.to), p.alive())
}

func (b *bench) close() error {
	var errs []error
	for _, p := range b.paths {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// bareMTU makes TCP segments of 1400 bytes: 20 of IP, 32 of TCP with timestamps.
const bareMTU = 1400 + 20 + 32

// startBare runs the bare program on both hosts.
func startBare(ctx context.Context, p *path, program, via string) error {
	const tun = "bare0"
	inner := [2]netip.Addr{netip.MustParseAddr("10.8.0.1"), netip.MustParseAddr("10.8.0.2")}
	outer := [2]netip.Addr{lab.A4, lab.B4}
	p.to = inner[1]
	for i, h := range p.Hosts() {
		mac, err := linkAddress(p.Hosts()[1-i])
		if err != nil {
			return err
		}
		process, err := h.Launch(ctx, "ready", program, "--via", via, "--tun", tun, "--dev", hosts.Device,
			"--local", outer[i].String(), "--peer", outer[1-i].String(), "--mac", mac.String())
		if err != nil {
			return err
		}
		p.processes = append(p.processes, process)
		if err := h.SetUp(ctx, tun, netip.PrefixFrom(inner[i], 24), bareMTU); err != nil {
			return err
		}
	}
	return nil
}

func linkAddress(h *hosts.Host) (mac net.HardwareAddr, err error) {
	err = h.Do(func() error {
		dev, err := net.InterfaceByName(hosts.Device)
		if err == nil {
			mac = dev.HardwareAddr
		}
		return err
	})
	return mac, err
}
