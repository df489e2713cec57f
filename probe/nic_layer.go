package probe

import (
	"fmt"
	"io/fs"
	"strings"
)

// nicLayer tells what card a device is: driver, product, firmware, link. None of it decides
// whether ESP is offloaded; the driver does, in the next layer.
func nicLayer(s *survey, name string) Layer {
	d, err := s.look(name)
	if err != nil {
		return absent("NIC", name, err)
	}
	speed, speedErr := s.network.Speed(name)
	l := Layer{Name: "NIC", Summary: nicSummary(d, speed), Checks: []Check{driverCheck(d)}}
	if f := &d.function; f.product != nil || f.err != nil || f.vendor != 0 && d.esp == nil { // else the driver tells
		l.Checks = append(l.Checks, productCheck(s, d))
	}
	if d.driver.Firmware != "" {
		l.Checks = append(l.Checks, firmwareCheck(d))
	}
	l.Checks = append(l.Checks, linkCheck(d, speed, speedErr))
	if p := d.function.product; p != nil && p.LimitedFrom != 0 && speed != 0 && s.couldOffload(name) {
		l.Checks = append(l.Checks, bandwidthCheck(d, p, speed))
	}
	return l
}

// nicSummary is "ConnectX-7 (15b3:1021), firmware 28.39.1002, 100 Gb/s".
func nicSummary(d *device, speed uint32) string {
	var parts []string
	switch f := d.function; {
	case f.product != nil:
		parts = append(parts, fmt.Sprintf("%s (%s)", f.product.Name, f.product.ID()))
	case f.vendor != 0:
		parts = append(parts, fmt.Sprintf("%s (%04x:%04x)", d.driver.Name, f.vendor, f.id))
	case d.Kind != "":
		parts = append(parts, kindName(d.Kind))
	case d.driver.Name != "":
		parts = append(parts, d.driver.Name)
	}
	if d.driver.Firmware != "" {
		parts = append(parts, "firmware "+shortFirmware(d.driver.Firmware))
	}
	if d.Carrier && speed != 0 {
		parts = append(parts, speedText(speed))
	} else if !d.Carrier {
		parts = append(parts, "no link")
	}
	return strings.Join(parts, ", ")
}

// shortFirmware leaves the board's name out of "28.39.1002 (MT_0000000838)".
func shortFirmware(text string) string {
	text, _, _ = strings.Cut(text, " (")
	return text
}

func driverCheck(d *device) Check {
	c := Check{
		ID: "nic.driver", Title: "driver with ESP offload", Weight: Warns,
		Evidence: []Evidence{{"ethtool -i " + d.Name, "driver: " + d.driver.Name}},
	}
	switch {
	case d.Kind != "" && d.esp == nil:
		c.Answer, c.Why, c.Fix = No, "a device of kind "+d.Kind+" has no driver of hardware", otherDevice
		c.Evidence = []Evidence{{"ip -d link show " + d.Name, kindEvidence(d)}}
	case d.driverErr != nil:
		c.Why = "driver not known: " + unread(d.driverErr)
		c.Evidence[0].Value = ""
	case d.esp == nil:
		c.Why = d.driver.Name + ": no driver known here to offload ESP; its features tell"
	case d.esp.ESP == OffloadsNot:
		c.Answer, c.Why = No, fmt.Sprintf("%s (%s) has no ESP offload", d.driver.Name, d.esp.Note)
		if c.Fix = otherCard; d.esp.Note == guest {
			c.Fix = guestFix
		}
		c.Evidence = append(c.Evidence, Evidence{"table of drivers", d.esp.Source})
	default:
		c.Answer, c.Why = d.esp.ESP.answer(), d.driver.Name+": "+d.esp.Note
		c.Evidence = append(c.Evidence, Evidence{"table of drivers", "Linux, drivers/net, " + d.esp.Source})
		if d.esp.ESP == PretendsOnly {
			c.Fix = testsOnly
		}
	}
	return c
}

func productCheck(s *survey, d *device) Check {
	c := Check{ID: "nic.product", Title: "card with ESP offload", Weight: Warns}
	f := &d.function
	if f.err != nil {
		c.Why = "PCI id not known: " + unread(f.err)
		c.Evidence = []Evidence{{"/sys/bus/pci/devices/" + f.address, ""}}
		return c
	}
	c.Evidence = []Evidence{{"/sys/bus/pci/devices/" + f.address, fmt.Sprintf("vendor %04x, device %04x", f.vendor, f.id)}}
	if f.product == nil {
		c.Why = fmt.Sprintf("%04x:%04x is in no table here", f.vendor, f.id)
		return c
	}
	c.Answer, c.Why = f.product.ESP.answer(), f.product.Name+": "+string(f.product.ESP)
	if c.Answer == No {
		c.Why, c.Fix = f.product.Name+" does not offload ESP", otherCard
	}
	c.Evidence = append(c.Evidence, Evidence{"table of products", f.product.Source})
	if features, err := s.network.Features(d.Name); c.Answer == Unknown && err == nil && features[espOffload].On {
		c.Answer, c.Why = Yes, c.Why+"; this one does"
	}
	if enabled, at := s.cryptoSKU(f); at != "" {
		c.Evidence = append(c.Evidence, Evidence{"/sys/bus/pci/devices/" + at, "the card's function that tells"})
		if enabled {
			c.Answer, c.Why = Yes, f.product.Name+", crypto enabled"
		} else {
			c.Answer, c.Why = No, f.product.Name+", crypto disabled"
			c.Fix = noCryptoFix
		}
	}
	return c
}

const noCryptoFix = "This card was sold with its cryptography disabled, and no setting changes that: take one whose ordering number says crypto enabled."

// cryptoSKU looks in the slot of a BlueField's NIC for the function that says whether its
// cryptography is enabled; at is "" if there is none to be seen.
func (s *survey) cryptoSKU(f *function) (enabled bool, at string) {
	slot, _, ok := strings.Cut(f.address, ".")
	if !ok || f.vendor != mellanox || f.virtual {
		return false, ""
	}
	siblings, err := fs.Glob(s.root, "sys/bus/pci/devices/"+slot+".*")
	if err != nil {
		return false, ""
	}
	for _, dir := range siblings {
		id, err := s.readID(dir + "/device")
		if err != nil {
			continue
		}
		for _, sku := range CryptoSKUs {
			if sku.Device == id && sku.Product == f.id {
				return sku.Enabled, strings.TrimPrefix(dir, "sys/bus/pci/devices/")
			}
		}
	}
	return false, ""
}

func firmwareCheck(d *device) Check {
	return Check{
		ID: "nic.firmware", Title: "firmware", Weight: Informs, Answer: Yes, Why: d.driver.Firmware,
		Evidence: []Evidence{{"ethtool -i " + d.Name, "firmware-version: " + d.driver.Firmware}},
	}
}

func linkCheck(d *device, speed uint32, err error) Check {
	c := Check{ID: "nic.link", Title: "link", Weight: Warns, Evidence: []Evidence{{"ip link show " + d.Name, ""}}}
	switch {
	case !d.Up:
		c.Answer, c.Why = No, d.Name+" is down: setting a device down deletes its offloaded SAs"
		c.Evidence[0].Value = "DOWN"
		c.Fix = "ip link set " + d.Name + " up"
	case !d.Carrier:
		c.Answer, c.Why = No, d.Name+" has no carrier: nothing is heard from the other end"
		c.Evidence[0].Value = "NO-CARRIER"
		c.Fix = "Look at the cable of " + d.Name + " and the port at its other end: ethtool " + d.Name + ", ethtool -m " + d.Name + "."
	case err != nil || speed == 0:
		c.Answer, c.Why = Yes, "up, its speed not known"
		c.Evidence[0].Value = "UP"
	default:
		c.Answer, c.Why = Yes, "up, "+speedText(speed)
		c.Evidence = []Evidence{{"ethtool " + d.Name, fmt.Sprintf("Speed: %dMb/s", speed)}}
	}
	return c
}

// bandwidthCheck is asked only of products with a documented limit.
func bandwidthCheck(d *device, p *Product, speed uint32) Check {
	c := Check{
		ID: "nic.bandwidth", Title: "ESP at the link's speed", Weight: Warns,
		Answer: Yes, Why: "no limit documented for " + p.Name + " at " + speedText(speed),
		Evidence: []Evidence{{"ethtool " + d.Name, fmt.Sprintf("Speed: %dMb/s", speed)}},
	}
	if speed >= p.LimitedFrom {
		c.Answer, c.Why = No, p.Name+": "+limitedNote
		c.Fix = "Measure what your traffic gets. NVIDIA's release notes of " + p.Name + " name the limit; a ConnectX-7 or BlueField-3 has none documented."
	}
	return c
}
