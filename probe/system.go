package probe

import (
	"context"
	"io/fs"
	"os"
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
}

// Link is a network device as rtnetlink tells of it.
type Link struct {
	Index  int
	Name   string
	Kind   string // "vlan", "bond", "veth"; "" for hardware
	MTU    int    // bytes
	Up     bool
	Lower  int // the link that this one sits on, as a VLAN's; 0 for none
	Master int // the bond or bridge that this one is a port of; 0 for none
}

// Driver is who drives a network device.
type Driver struct {
	Name     string // "mlx5_core"
	Version  string
	Firmware string
	Bus      string // where the device is: "0000:3b:00.0" on PCI; "" for none
}

// Here is this host.
func Here() System {
	return System{Root: os.DirFS("/"), Network: here(), Log: kernelLog, Speed: MeasureSpeed}
}
