package host

import (
	"fmt"
	"net/netip"
	"slices"

	"espalier/probe"
	"espalier/tunnel"
)

// espFeature is NETIF_F_HW_ESP, as ethtool -k names it.
const espFeature = "esp-hw-offload"

// gatherDevices lists the network devices. Those that have no address of a network are not asked for
// more: on a host of containers there are thousands.
func gatherDevices(network probe.Network, abilities *probe.Abilities) ([]tunnel.Device, error) {
	links, err := network.Links()
	if err != nil {
		return nil, err
	}
	var devices []tunnel.Device
	for i := range links {
		l := &links[i]
		if l.Loopback {
			continue
		}
		d := tunnel.Device{Name: l.Name, Index: l.Index, MTU: l.MTU, Up: l.Up, IfID: l.IfID, Addresses: l.Addresses}
		if slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() }) {
			askDevice(network, &d, abilities)
		}
		devices = append(devices, d)
	}
	return devices, nil
}

// askDevice asks the driver.
func askDevice(network probe.Network, d *tunnel.Device, abilities *probe.Abilities) {
	d.Speed, _ = network.Speed(d.Name) // not known: 0
	driver, _ := network.Driver(d.Name)
	d.Driver = driver.Name
	features, err := network.Features(d.Name)
	d.Crypto = cryptoOffload(d, features[espFeature], err, abilities)
	d.Packet = packetOffload(d, abilities)
	d.Lacks = driverLacks[d.Driver]
}

// cryptoOffload goes by the switch of the driver's, and by what the kernel needs besides.
func cryptoOffload(d *tunnel.Device, f probe.Feature, err error, abilities *probe.Abilities) tunnel.Answer {
	no := func(format string, a ...any) tunnel.Answer {
		return tunnel.Answer{Can: tunnel.No, Why: fmt.Sprintf(format, a...)}
	}
	switch {
	case err != nil:
		return tunnel.Answer{Can: tunnel.Unknown, Why: err.Error()}
	case pretends(d.Driver):
		return no("%s is a %s, which says that it encrypts and does not", d.Name, d.Driver)
	case f.On:
		return kernelOffload(d, abilities)
	case f.Known && !f.Fixed:
		return no("%s of %s is switched off: ethtool -K %s %s on", espFeature, d.Name, d.Name, espFeature)
	case d.Driver != "":
		return no("%s (%s) has no %s", d.Name, d.Driver, espFeature)
	}
	return no("%s has no %s", d.Name, espFeature)
}

// kernelOffload is whether the kernel hands SAs of the device's families to it.
func kernelOffload(d *tunnel.Device, abilities *probe.Abilities) tunnel.Answer {
	if slices.ContainsFunc(d.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		return answer(abilities.Crypto4)
	}
	return answer(abilities.Crypto6)
}

func pretends(driver string) bool {
	return slices.ContainsFunc(probe.Drivers, func(d probe.DriverESP) bool { return d.Name == driver && d.ESP == probe.PretendsOnly })
}

// packetOffload: there is no switch for it. Of the drivers that are known mlx5_core alone has it, with
// firmware that has.
func packetOffload(d *tunnel.Device, abilities *probe.Abilities) tunnel.Answer {
	known := slices.ContainsFunc(probe.Drivers, func(p probe.DriverESP) bool { return p.Name == d.Driver })
	kernel := answer(abilities.Packet)
	switch {
	case d.Crypto.Can == tunnel.No:
		return d.Crypto
	case kernel.Can == tunnel.No:
		return kernel
	case known && d.Driver != "mlx5_core":
		return tunnel.Answer{Can: tunnel.No, Why: "driver " + d.Driver + " has none"}
	}
	return tunnel.Answer{Can: tunnel.Unknown, Why: "only trying shows whether " + d.Name + " can"}
}

// driverLacks are of probe.Drivers those that offload in part (their sources are there).
var driverLacks = map[string][]tunnel.Lack{
	"ixgbe":     {tunnel.LacksESN, tunnel.LacksTunnel, tunnel.LacksAES256},
	"ixgbevf":   {tunnel.LacksESN, tunnel.LacksTunnel, tunnel.LacksAES256},
	"nfp":       {tunnel.LacksESN},
	"cxgb4":     {tunnel.LacksReceiving},
	"rvu_nicpf": {tunnel.LacksReceiving, tunnel.LacksESN},
}
