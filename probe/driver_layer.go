package probe

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"espalier/internal/niccount"
)

// Names of features, as in ethtool -k (net/ethtool/common.c).
const (
	espOffload      = "esp-hw-offload"         // NETIF_F_HW_ESP
	espChecksum     = "esp-tx-csum-hw-offload" // NETIF_F_HW_ESP_TX_CSUM
	espSegmentation = "tx-esp-segmentation"    // NETIF_F_GSO_ESP
)

// driverLayer asks what driver and firmware of a device say they do for ESP. What only helps an
// offload is not asked of a device that has none.
func driverLayer(s *survey, name string) Layer {
	const layer = "driver and firmware"
	d, err := s.look(name)
	if err != nil {
		return absent(layer, name, err)
	}
	features, err := s.network.Features(name)
	offload := features[espOffload]
	l := Layer{Name: layer, Summary: espOffload + " " + offload.String(), Checks: []Check{s.offloadCheck(d, offload, err)}}
	if d.driver.Name == "mlx5_core" {
		l.Checks = append(l.Checks, s.logCheck(d))
	}
	l.Checks = append(l.Checks, s.devlinkChecks(d)...)
	if !s.couldOffload(name) {
		return l
	}
	l.Checks = append(l.Checks,
		featureCheck(d, "driver.esp-checksum", espChecksum, features[espChecksum], err,
			"checksums and segments of what the NIC encrypts are made by the CPU"),
		featureCheck(d, "driver.esp-segmentation", espSegmentation, features[espSegmentation], err,
			"what the NIC encrypts is cut into packets by the CPU"),
		s.counterCheck(d))
	return l
}

// offloadCheck is the one that decides: whether the driver offloads ESP's cryptography.
func (s *survey) offloadCheck(d *device, f Feature, err error) Check {
	c := Check{
		ID: "driver.esp-offload", Title: espOffload, Weight: Required,
		Evidence: []Evidence{{"ethtool -k " + d.Name, espOffload + ": " + f.String()}},
	}
	switch {
	case err != nil:
		c.Why, c.Evidence[0].Value = "features of "+d.Name+" not known: "+unread(err), ""
	case !f.Known:
		c.Answer, c.Why = No, "the kernel knows no "+espOffload+" (Linux 4.12 does)"
		c.Fix = "Boot Linux 4.12 or later."
	case f.On && d.esp != nil && d.esp.ESP == PretendsOnly:
		c.Answer, c.Why = No, d.Name+" is a "+d.driver.Name+": it says that it offloads ESP, and encrypts nothing"
		c.Fix = testsOnly
	case f.On:
		c.Answer, c.Why = Yes, f.String()
	case !f.Fixed:
		c.Answer, c.Why = No, espOffload+" of "+d.Name+" is switched off"
		c.Fix = switchOn(d.Name, espOffload)
	case d.Kind != "" && d.Kind != "bond" && d.Kind != "netdevsim":
		c.Answer = No
		_, c.Fix = s.kindProblem(d)
		c.Why = d.Name + ", " + s.kindOf(d) + ", has no ESP offload"
	default:
		c.Answer = No
		c.Why, c.Fix = s.whyNone(d)
		c.Why = d.Name + " has no ESP offload: " + c.Why
	}
	return c
}

func switchOn(device, feature string) string {
	return "ethtool -K " + device + " " + feature + " on"
}

// whyNone is the likely reason for which a device has no ESP offload at all, and what helps.
func (s *survey) whyNone(d *device) (why, fix string) {
	f := &d.function
	switch {
	case d.Kind == "bond" && d.BondMode != "active-backup":
		return s.bondProblem(&d.Link)
	case d.Kind == "bond":
		return "a port of it has none", "See what espalier doctor says of its ports: " + linkNames(s.ports(d.Index)) + "."
	case isRepresentor(d):
		return "it is a representor of the e-switch's", representorFix
	case f.virtual || f.sub:
		return s.functionProblem(d)
	case f.product != nil && f.product.ESP == OffloadsNot:
		return f.product.Name + " does not offload ESP", otherCard
	}
	if enabled, at := s.cryptoSKU(f); at != "" && !enabled {
		return f.product.Name + " with crypto disabled", noCryptoFix
	}
	switch {
	case d.esp != nil && d.esp.Note == guest:
		return d.esp.Name + ", made up by a hypervisor, has none", guestFix
	case d.esp != nil && d.esp.ESP == OffloadsNot:
		return "driver " + d.esp.Name + " has none", otherCard
	case f.product != nil && f.product.ESP == NotListed:
		return f.product.Name + " is in no list of cards that offload ESP", otherCard
	case d.driver.Name == "mlx5_core":
		return "mlx5_core found no IPsec in card and firmware, or was built without it", "Look at the layer of the kernel for MLX5_EN_IPSEC. If that is there, the card is none with crypto enabled, or its firmware is too old for its driver: " +
			"ask for both with mlxfwmanager or devlink dev info, and update the firmware with mlxfwmanager -u or fwupdmgr."
	case d.esp != nil && d.esp.Option != "":
		return d.driver.Name + " found no IPsec in card and firmware, or was built without " + d.esp.Option,
			"The kernel needs CONFIG_" + d.esp.Option + "; " + d.esp.Note + "."
	case d.driver.Name == "":
		return "no driver of hardware", otherCard
	}
	return "driver " + d.driver.Name + " has none", otherCard
}

const (
	otherCard      = "ESP is offloaded by crypto-enabled ConnectX-6 Dx, ConnectX-7 and BlueField cards. Until there is one, the kernel encrypts on the CPU."
	testsOnly      = "Use it for tests only: what is offloaded to it leaves in clear."
	guestFix       = "Have the host of this virtual machine give it a virtual function of a NIC that offloads ESP. Until then, the kernel encrypts on the CPU."
	representorFix = "Give the SAs to the function itself (inside of the virtual machine or container), or to the uplink."
)

// functionProblem: a virtual or sub-function offloads if its physical one lets it, which is off
// at first (devlink-port, Linux 6.7).
func (s *survey) functionProblem(d *device) (why, fix string) {
	f := &d.function
	if d.driver.Name == "ixgbevf" {
		return "its PF does not let it", "On the host of the PF, with VF numbers from 0: ethtool --set-priv-flags PF vf-ipsec on; ip link set PF vf NUMBER trust on"
	}
	const elsewhere = "On the host of its PF: devlink port show names the port of this function; then devlink port function set PORT ipsec_crypto enable, with the function's driver unbound."
	port, pci := s.portOf(f)
	switch {
	case port == nil && f.virtual && f.pf != "":
		return "its PF " + f.pf + " does not let it",
			fmt.Sprintf("A PF lets its VFs offload in switchdev mode only: devlink dev eswitch set pci/%s mode switchdev; then devlink port show names the port of VF %d, "+
				"and devlink port function set PORT ipsec_crypto enable lets it, with its driver unbound.", f.pf, f.vf)
	case port == nil:
		return "its PF does not let it, or cannot", elsewhere
	case port.IPsecCrypto == No:
		return "its PF does not let it", letFunction(pci, port, f)
	case port.IPsecCrypto == Yes:
		return "its PF lets it, its driver does not have it", "Bind the function's driver again: it asks for its capabilities only then."
	}
	return "its PF does not say whether it lets it", elsewhere
}

// letFunction are the commands that let a function offload.
func letFunction(pci string, port *DevlinkPort, f *function) string {
	set := fmt.Sprintf("devlink port function set pci/%s/%d ipsec_crypto enable", pci, port.Index)
	if !f.virtual {
		return set + ", while the function is inactive"
	}
	const bind = "echo %s > /sys/bus/pci/drivers/mlx5_core/%s; "
	return strings.TrimSuffix(fmt.Sprintf(bind, f.address, "unbind")+set+"; "+fmt.Sprintf(bind, f.address, "bind"), "; ")
}

// portOf finds the devlink port of a virtual or sub-function, and the PCI address of its device;
// nil if the physical function is not on this host, or has no ports for the others.
func (s *survey) portOf(f *function) (*DevlinkPort, string) {
	pf := f.pf
	if f.sub {
		pf = f.address
	}
	devices, _ := s.devlinks()
	for _, dev := range devices {
		if dev.Bus != "pci" || dev.Device != pf || pf == "" {
			continue
		}
		for i := range dev.Ports {
			p := &dev.Ports[i]
			if f.virtual && p.Flavour == "pcivf" && int(p.VF) == f.vf {
				return p, pf
			}
			// The number on the auxiliary bus is not the sub-function's: one alone is it.
			if f.sub && p.Flavour == "pcisf" && !slices.ContainsFunc(dev.Ports, func(o DevlinkPort) bool { return o.Flavour == "pcisf" && o.Index != p.Index }) {
				return p, pf
			}
		}
	}
	return nil, ""
}

// featureCheck asks for a feature without which the offload works, but slower.
func featureCheck(d *device, id, feature string, f Feature, err error, without string) Check {
	c := Check{ID: id, Title: feature, Weight: Warns, Evidence: []Evidence{{"ethtool -k " + d.Name, feature + ": " + f.String()}}}
	switch {
	case err != nil:
		c.Why, c.Evidence[0].Value = "not known: "+unread(err), ""
	case !f.Known:
		c.Answer, c.Why, c.Fix = No, without+": the kernel knows no such feature", "Boot a newer kernel."
	case f.On:
		c.Answer, c.Why = Yes, f.String()
	default:
		c.Answer, c.Why, c.Fix = No, without+": "+f.String(), "Driver and card have no more to offer: those of a newer kernel or firmware may."
		if !f.Fixed {
			c.Fix = switchOn(d.Name, feature)
		}
	}
	return c
}

// accelerated is what mlx5 logs once it has found an IPsec capability, any of them: so it proves
// less than the feature.
const accelerated = "mlx5e: IPSec ESP acceleration enabled"

func (s *survey) logCheck(d *device) Check {
	c := Check{ID: "driver.log", Title: "driver's line in the log", Weight: Informs, Evidence: []Evidence{{"dmesg", ""}}}
	lines, err := s.log()
	if err != nil {
		c.Why = "kernel log not read: " + unread(err)
		return c
	}
	fromBoot := false
	for _, line := range lines {
		fromBoot = fromBoot || strings.Contains(line, "Linux version ")
		if strings.Contains(line, accelerated) && strings.Contains(line, d.driver.Bus+": ") {
			c.Answer, c.Why = Yes, "IPSec ESP acceleration enabled"
			c.Evidence[0].Value = line
			return c
		}
	}
	c.Why = "the log does not reach back to the boot"
	if fromBoot {
		c.Answer, c.Why = No, "the driver has not logged that it found IPsec"
		c.Fix = "Nothing by itself: what counts is " + espOffload + "."
	}
	c.Evidence[0].Value = fmt.Sprintf("%d lines, none with %q", len(lines), accelerated)
	return c
}

// devlinkChecks ask for the e-switch, and who of its functions may offload; nothing of a device
// that devlink does not know.
func (s *survey) devlinkChecks(d *device) []Check {
	f := &d.function
	if f.address == "" {
		return nil
	}
	devices, err := s.devlinks()
	if err != nil {
		return []Check{{
			ID: "driver.eswitch", Title: "e-switch", Weight: Informs, Why: "devlink not read: " + unread(err),
			Evidence: []Evidence{{"devlink dev eswitch show pci/" + f.address, ""}},
		}}
	}
	if f.virtual || f.sub {
		if c, ok := s.letCheck(d); ok {
			return []Check{c}
		}
		return nil
	}
	for _, dev := range devices {
		if dev.Bus != "pci" || dev.Device != f.address {
			continue
		}
		return slices.Concat(eswitchCheck(&dev), heldCheck(d, &dev))
	}
	return nil
}

func eswitchCheck(dev *Devlink) []Check {
	c := Check{ID: "driver.eswitch", Title: "e-switch", Weight: Informs, Evidence: []Evidence{{"devlink dev eswitch show pci/" + dev.Device, dev.Eswitch}}}
	switch {
	case dev.Denied:
		c.Why = "its mode is not shown to this user"
	case dev.Eswitch == "":
		return nil
	case dev.Eswitch == "switchdev":
		c.Answer, c.Why = Yes, "switchdev: SAs belong to the uplink or to a function, not to a representor"
	default:
		c.Answer, c.Why = Yes, dev.Eswitch
	}
	return []Check{c}
}

// heldCheck: the driver offloads nothing for the physical function as long as one of the others
// holds IPsec (EBUSY, as both cannot).
func heldCheck(d *device, dev *Devlink) []Check {
	var fixes []string
	functions := 0
	c := Check{ID: "driver.held", Title: "IPsec left to the PF", Weight: Required}
	for _, p := range dev.Ports {
		if p.Flavour != "pcivf" && p.Flavour != "pcisf" {
			continue
		}
		functions++
		for word, held := range map[string]Answer{"ipsec_crypto": p.IPsecCrypto, "ipsec_packet": p.IPsecPacket} {
			if held == Yes {
				c.Evidence = append(c.Evidence, Evidence{fmt.Sprintf("devlink port show pci/%s/%d", dev.Device, p.Index), functionName(&p) + " has " + word})
				fixes = append(fixes, fmt.Sprintf("devlink port function set pci/%s/%d %s disable", dev.Device, p.Index, word))
			}
		}
	}
	switch {
	case functions == 0:
		return nil
	case len(fixes) == 0:
		c.Answer, c.Why = Yes, fmt.Sprintf("none of its %d functions holds it", functions)
		c.Evidence = []Evidence{{"devlink port show", "no ipsec_crypto enable"}}
	default:
		slices.SortFunc(c.Evidence, func(a, b Evidence) int { return strings.Compare(a.Source+a.Value, b.Source+b.Value) })
		slices.Sort(fixes)
		c.Answer, c.Why = No, c.Evidence[0].Value+", and then "+d.Name+" itself offloads nothing"
		c.Fix = strings.Join(fixes, "; ") + ", or give the SAs to that function"
	}
	return []Check{c}
}

func functionName(p *DevlinkPort) string {
	if p.Flavour == "pcisf" {
		return fmt.Sprintf("SF %d", p.SF)
	}
	return fmt.Sprintf("VF %d", p.VF)
}

// letCheck asks of a virtual or sub-function whether its physical one lets it, if that is here.
func (s *survey) letCheck(d *device) (Check, bool) {
	port, pci := s.portOf(&d.function)
	if port == nil {
		return Check{}, false
	}
	c := Check{
		ID: "driver.function", Title: "IPsec given to this function", Weight: Warns, Answer: port.IPsecCrypto,
		Evidence: []Evidence{{fmt.Sprintf("devlink port show pci/%s/%d", pci, port.Index), ""}},
	}
	switch port.IPsecCrypto {
	case Yes:
		c.Why, c.Evidence[0].Value = functionName(port)+" may offload", "ipsec_crypto enable"
	case No:
		c.Why, c.Evidence[0].Value = functionName(port)+" may not offload", "ipsec_crypto disable"
		c.Fix = letFunction(pci, port, &d.function)
	default:
		c.Why = "kernel (before 6.7) or driver does not say"
	}
	return c, true
}

const judgeFromPeer = "Judge from the peer: espalier verify."

// counterCheck: without the NIC's own counters nobody sees from here whether it encrypts.
// A bond has none of its own: its ports count.
func (s *survey) counterCheck(d *device) Check {
	of := d.Name
	if ports := s.ports(d.Index); d.Kind == "bond" && len(ports) > 0 {
		of = ports[0].Name
	}
	c := Check{ID: "driver.counters", Title: "counters of the NIC's ESP", Weight: Warns, Evidence: []Evidence{{"ethtool -S " + of, ""}}}
	counters, err := s.network.Counters(of)
	if err != nil {
		c.Why = "not known: " + unread(err)
		return c
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(counters)) {
		if strings.Contains(name, "ipsec") {
			all = append(all, name)
		}
	}
	names := niccount.Of(d.driver.Name)
	_, received := counters[names.Decrypted]
	_, sent := counters[names.Encrypted]
	_, handed := counters[names.Handed]
	switch {
	case received && sent:
		c.Answer, c.Why = Yes, names.Decrypted+", "+names.Encrypted
	case handed:
		c.Answer, c.Why = No, "what the NIC encrypts is not counted by packets, only what the driver handed to it, large packets as one"
		c.Fix = judgeFromPeer
	case len(all) > 0:
		c.Answer, c.Why = No, "whether the NIC encrypts cannot be seen from here: only what software drops is counted"
		c.Fix = "mlx5 counts what the hardware encrypts from Linux 6.2 on. Until then judge from the peer: espalier verify."
	default:
		c.Answer, c.Why = No, "whether the NIC encrypts cannot be seen from here: it is not counted"
		c.Fix = judgeFromPeer
	}
	if len(all) > 0 {
		c.Evidence[0].Value = strings.Join(all, ", ")
	}
	return c
}
