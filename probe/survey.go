package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"

	"espalier/probe/firewall"
)

// survey reads what the layers of all devices share, each thing once and when first asked. It is
// safe for concurrent use.
type survey struct {
	root    fs.FS
	network Network

	links        func() ([]Link, error)
	devlinks     func() ([]Devlink, error)
	chains       func() ([]firewall.Chain, error)
	log          func() ([]string, error)
	distribution func() distribution
}

// errNotAsked is the error of what nobody was given to ask.
var errNotAsked = errors.New("not asked")

func newSurvey(sys System) *survey {
	s := &survey{root: sys.Root, network: sys.Network}
	if s.network == nil {
		s.network = nobody{}
	}
	if sys.Log == nil {
		sys.Log = func() ([]string, error) { return nil, errNotAsked }
	}
	s.links = sync.OnceValues(s.network.Links)
	s.devlinks = sync.OnceValues(s.network.Devlink)
	s.chains = sync.OnceValues(func() ([]firewall.Chain, error) {
		if s.unloaded("nf_tables") {
			return nil, nil // no rules, and to ask would load it
		}
		return s.network.Chains()
	})
	s.log = sync.OnceValues(sys.Log)
	s.distribution = sync.OnceValue(func() distribution {
		d, _ := readDistribution(s.root)
		return d
	})
	return s
}

// nobody answers for the network of a system that has none.
type nobody struct{}

func (nobody) Links() ([]Link, error)                      { return nil, errNotAsked }
func (nobody) Driver(string) (Driver, error)               { return Driver{}, errNotAsked }
func (nobody) Features(string) (map[string]Feature, error) { return nil, errNotAsked }
func (nobody) Counters(string) (map[string]uint64, error)  { return nil, errNotAsked }
func (nobody) Speed(string) (uint32, error)                { return 0, errNotAsked }
func (nobody) Queues(string) (Queues, error)               { return Queues{}, errNotAsked }
func (nobody) Devlink() ([]Devlink, error)                 { return nil, errNotAsked }
func (nobody) Chains() ([]firewall.Chain, error)           { return nil, errNotAsked }

// unloaded tells of a module that there is, but that is not loaded.
func (s *survey) unloaded(module string) bool {
	if _, err := fs.Stat(s.root, "sys/module/"+module); err == nil {
		return false
	}
	release, err := s.read("proc/sys/kernel/osrelease")
	if err != nil || release == "" || strings.Contains(release, "/") {
		return false
	}
	list, err := fs.ReadFile(s.root, "lib/modules/"+release+"/modules.dep")
	if err != nil {
		return false // not a modular kernel's, or modprobe would not find it either
	}
	return bytes.Contains(list, []byte("/"+module+".ko")) // what is built in is not in this list
}

// names of all network devices, in the kernel's order.
func (s *survey) names() []string {
	links, _ := s.links()
	names := make([]string, 0, len(links))
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names
}

// driver of a device, "" if it has none that says so.
func (s *survey) driver(device string) string {
	d, _ := s.network.Driver(device)
	return d.Name
}

// link by its number, nil if there is none of it here.
func (s *survey) link(index int) *Link {
	links, _ := s.links()
	for i := range links {
		if links[i].Index == index && index != 0 {
			return &links[i]
		}
	}
	return nil
}

// device is what is known of one network device before any question is asked.
type device struct {
	Link
	driver    Driver
	driverErr error
	function  function
	esp       *DriverESP // nil if nothing is known of its driver
}

// function is the function of a PCI device behind a network device.
type function struct {
	address string // "0000:3b:00.0"; "" if it is on no PCI bus, or nobody says where
	vendor  uint16
	id      uint16
	err     error    // why vendor and id are not known
	product *Product // nil if it is in no table
	pf      string   // of a virtual function: the address of its physical one, if that is on this host
	virtual bool
	vf      int // its number, if pf is known
	sub     bool
	sf      uint32 // number of the sub-function on its auxiliary bus
}

// look finds a device; the error says that it is not there, or that nobody could be asked.
func (s *survey) look(name string) (*device, error) {
	links, err := s.links()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Name != name {
			continue
		}
		d := &device{Link: l}
		d.driver, d.driverErr = s.network.Driver(name)
		d.function = s.functionOf(d)
		d.esp = driverESP(d.driver.Name)
		return d, nil
	}
	return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

// functionOf finds the PCI function by where the driver says that the device is:
// /sys/class/net shows the network namespace that sysfs was mounted in, which need not be this one.
func (s *survey) functionOf(d *device) function {
	at := d.driver.Bus
	if at == "" {
		at = d.Parent
	}
	var f function
	switch {
	case at == "" || d.Kind != "" && d.Kind != "netdevsim":
		return f
	case isPCI(at):
		f.address = at
	case strings.Contains(at, ".sf."):
		// An auxiliary device's link leads through the directory of its parent.
		f.sub = true
		_, number, _ := strings.Cut(at, ".sf.")
		n, _ := strconv.ParseUint(number, 10, 32)
		f.sf = uint32(n)
		to, err := fs.ReadLink(s.root, "sys/bus/auxiliary/devices/"+at)
		if err != nil {
			f.err = err
			return f
		}
		if f.address = path.Base(path.Dir(to)); !isPCI(f.address) {
			f.address = ""
			return f
		}
	default:
		return f
	}
	dir := "sys/bus/pci/devices/" + f.address
	if f.vendor, f.err = s.readID(dir + "/vendor"); f.err != nil {
		return f
	}
	if f.id, f.err = s.readID(dir + "/device"); f.err != nil {
		return f
	}
	f.product = productOf(f.vendor, f.id)
	if to, err := fs.ReadLink(s.root, dir+"/physfn"); err == nil && !f.sub {
		f.virtual, f.pf = true, path.Base(to)
		f.vf = s.vfNumber(f.pf, f.address)
	}
	if f.product != nil && f.product.ESP == IfEnabled {
		f.virtual = true // in a virtual machine nothing else says so
	}
	return f
}

// vfNumber is which of its physical function's virtual ones has an address; -1 if none.
func (s *survey) vfNumber(pf, address string) int {
	const most = 1 << 10 // SR-IOV allows 2^16, no NIC has that many
	for n := range most {
		to, err := fs.ReadLink(s.root, fmt.Sprintf("sys/bus/pci/devices/%s/virtfn%d", pf, n))
		if err != nil {
			return -1
		}
		if path.Base(to) == address {
			return n
		}
	}
	return -1
}

// isPCI tells "0000:3b:00.0" from other places.
func isPCI(address string) bool {
	var domain, bus, slot, function uint
	n, _ := fmt.Sscanf(address, "%x:%x:%x.%x", &domain, &bus, &slot, &function)
	return n == 4 && fs.ValidPath(address) && !strings.Contains(address, "/")
}

// readID reads "0x15b3".
func (s *survey) readID(name string) (uint16, error) {
	text, err := s.read(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 0, 16)
	if err != nil {
		return 0, fmt.Errorf("/%s: %q is no PCI id", name, text)
	}
	return uint16(n), nil
}

// read reads a file of one line.
func (s *survey) read(name string) (string, error) {
	text, err := fs.ReadFile(s.root, name)
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line), err
}

// unread says in a few words why something could not be read.
func unread(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "not shown to this user"
	case errors.Is(err, fs.ErrNotExist):
		return "not there"
	}
	return err.Error()
}

// absent is the layer of a device that is not there, or that nobody could be asked about.
func absent(layer, device string, err error) Layer {
	c := Check{ID: "nic.present", Title: "device " + device, Weight: Required, Why: "not known: " + unread(err)}
	if errors.Is(err, fs.ErrNotExist) {
		c.Answer, c.Why = No, "there is no network device "+device+" here"
		c.Fix = "ip link lists those that are here. A device that was moved to a network namespace is seen from inside of it only: ip netns exec NAME espalier doctor " + device + "."
	}
	c.Evidence = []Evidence{{"ip link show " + device, ""}}
	return Layer{Name: layer, Checks: []Check{c}}
}

// speedText is "100 Gb/s", "2.5 Gb/s", "100 Mb/s".
func speedText(mbps uint32) string {
	if mbps < 1000 {
		return fmt.Sprintf("%d Mb/s", mbps)
	}
	return strconv.FormatFloat(float64(mbps)/1000, 'f', -1, 64) + " Gb/s"
}
