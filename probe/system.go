package probe

import (
	"context"
	"io/fs"
	"net/netip"
	"os"

	"espalier/probe/firewall"
)

// System is a host as the probes see it. [Here] is this one; tests have others, made of files.
//
// Whatever cannot be read answers with an error, fs.ErrPermission above all: a probe then says
// unknown and why, never no.
type System struct {
	// Root is "/": etc, proc, sys, boot, lib/modules.
	Root fs.FS
	// Network is what the kernel says of the network devices of this network namespace.
	Network Network
	// Log are the lines of the kernel's log, the oldest first.
	Log func() ([]string, error)
	// Speed measures the CPU. Nil leaves that out.
	Speed func(context.Context) (Speed, error)
}

// Network answers questions about network devices: ethtool, rtnetlink, devlink, nftables.
type Network interface {
	Links() ([]Link, error)
	Driver(device string) (Driver, error)               // ethtool -i
	Features(device string) (map[string]Feature, error) // ethtool -k
	Counters(device string) (map[string]uint64, error)  // ethtool -S
	Speed(device string) (uint32, error)                // ethtool, in Mb/s; 0 if not known, as without a carrier
	Queues(device string) (Queues, error)               // ethtool -l, ethtool -n DEVICE rx-flow-hash esp4
	Devlink() ([]Devlink, error)                        // devlink dev eswitch show, devlink port show
	Chains() ([]firewall.Chain, error)                  // nft list ruleset
}

// Link is a network device as rtnetlink tells of it (linux/if_link.h).
type Link struct {
	Index     int            `yaml:"index"`
	Name      string         `yaml:"name"`
	Kind      string         `yaml:"kind"` // "vlan", "bond", "veth"; "" for hardware
	Loopback  bool           `yaml:"loopback"`
	MTU       int            `yaml:"mtu"` // bytes
	Up        bool           `yaml:"up"`  // administratively
	Carrier   bool           `yaml:"carrier"`
	Lower     int            `yaml:"lower"`      // the link that this one sits on, as a VLAN's; 0 for none
	Elsewhere bool           `yaml:"elsewhere"`  // Lower is in another network namespace, and its number says nothing here
	Master    int            `yaml:"master"`     // the bond or bridge that this one is a port of; 0 for none
	BondMode  string         `yaml:"bond-mode"`  // of a bond: "active-backup", "802.3ad"
	VLAN      uint16         `yaml:"vlan"`       // of a VLAN: its id
	IfID      uint32         `yaml:"if-id"`      // of an xfrm interface; 0: none
	PhysPort  string         `yaml:"phys-port"`  // "p0" of a switchdev's uplink, "pf0vf1" of a representor
	SwitchID  string         `yaml:"switch-id"`  // in hex, the same for all ports of one e-switch
	Parent    string         `yaml:"parent"`     // the device it belongs to: "0000:3b:00.0"
	ParentBus string         `yaml:"parent-bus"` // "pci", "virtio", "auxiliary", …; "" if the kernel (before 5.14) does not say
	Addresses []netip.Prefix `yaml:"addresses"`
}

// Driver is who drives a network device.
type Driver struct {
	Name     string `yaml:"name"` // "mlx5_core"
	Version  string `yaml:"version"`
	Firmware string `yaml:"firmware"`
	Bus      string `yaml:"bus"` // where the device is: "0000:3b:00.0" on PCI; "" for none
}

// Queues are how many queues a device receives by: packets of one SA are all received by one. A
// combined queue sends as well.
type Queues struct {
	Receive     int `yaml:"receive"` // in use now, without the combined
	MaxReceive  int `yaml:"max-receive"`
	Combined    int `yaml:"combined"`
	MaxCombined int `yaml:"max-combined"`
	// Hash is what ESP over IPv4 is spread over the queues by, in the letters of ethtool -N: "sd" for both
	// addresses, besides which cards may take the SPI; "-" for nothing. "" if the driver does not tell.
	Hash string `yaml:"hash"`
}

// Devlink is a device as devlink tells of it (linux/devlink.h).
type Devlink struct {
	Bus     string        `yaml:"bus"`     // "pci", "auxiliary"
	Device  string        `yaml:"device"`  // "0000:3b:00.0"
	Eswitch string        `yaml:"eswitch"` // "legacy", "switchdev"; "" if it has none or does not say
	Denied  bool          `yaml:"denied"`  // the e-switch's mode is kept from this user
	Ports   []DevlinkPort `yaml:"-"`
}

// DevlinkPort is a port of a device's, and what its function may do.
type DevlinkPort struct {
	Index       uint32 `yaml:"index"`
	Flavour     string `yaml:"flavour"` // "physical", "pcipf", "pcivf", "pcisf"
	Device      string `yaml:"device"`  // the network device, as a representor; "" for none
	PF          uint16 `yaml:"pf"`
	VF          uint16 `yaml:"vf"` // of flavour pcivf, from 0
	SF          uint32 `yaml:"sf"` // of flavour pcisf
	IPsecCrypto Answer `yaml:"-"`  // whether the function may offload ESP's cryptography; Unknown if the kernel (before 6.7) or driver does not say
	IPsecPacket Answer `yaml:"-"`  // the same of packet offload
}

// Here is this host.
func Here() System {
	return System{Root: os.DirFS("/"), Network: here(), Log: kernelLog, Speed: MeasureSpeed}
}
