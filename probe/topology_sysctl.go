package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// sysctlChecks ask for switches of the device's, and of all devices', that go past IPsec.
func (s *survey) sysctlChecks(d *device) []Check {
	return []Check{
		s.zeroCheck(d, "topology.disable-xfrm", "disable_xfrm is 0", "ipv4", "disable_xfrm", Required,
			"what leaves by %s is not encrypted and goes out in clear"),
		s.zeroCheck(d, "topology.disable-policy", "disable_policy is 0", "ipv4", "disable_policy", Warns,
			"what comes in by %s is not held against the policies: cleartext is taken"),
		s.zeroCheck(d, "topology.disable-policy6", "disable_policy is 0 (IPv6)", "ipv6", "disable_policy", Warns,
			"what comes in by %s over IPv6 is not held against the policies: cleartext is taken"),
		s.reversePathCheck(d),
	}
}

func sysctlFile(family, device, name string) string {
	return "proc/sys/net/" + family + "/conf/" + device + "/" + name
}

// sysctl is `net.ipv4.conf.p4p1.disable_xfrm`; sysctl(8) takes slashes where a name has dots.
func sysctl(family, device, name string) string {
	if strings.Contains(device, ".") {
		return "net/" + family + "/conf/" + device + "/" + name
	}
	return "net." + family + ".conf." + device + "." + name
}

// zeroCheck asks whether a switch is off for the device and for all. Whether "all" counts depends
// on the kernel (since 5.18 it does), so it is better off, too.
func (s *survey) zeroCheck(d *device, id, title, family, name string, w Weight, means string) Check {
	c := Check{ID: id, Title: title, Weight: w}
	var on []string
	var failed error
	for _, of := range []string{d.Name, "all"} {
		file := sysctlFile(family, of, name)
		value, err := s.read(file)
		switch {
		case errors.Is(err, fs.ErrNotExist) && of == "all":
			// A kernel without the family, or without the switch.
			c.Answer, c.Why, c.Weight = Yes, "the kernel has no such switch", Informs
			c.Evidence = []Evidence{{"/" + file, ""}}
			return c
		case errors.Is(err, fs.ErrNotExist):
			continue // a device without addresses of the family
		case err != nil:
			failed = err
			c.Evidence = append(c.Evidence, Evidence{"/" + file, ""})
			continue
		case value != "0":
			on = append(on, of)
		}
		c.Evidence = append(c.Evidence, Evidence{"/" + file, value})
	}
	switch {
	case len(on) > 0:
		var set []string
		for _, of := range on {
			set = append(set, "sysctl -w "+sysctl(family, of, name)+"=0")
		}
		c.Answer, c.Why = No, fmt.Sprintf("%s is set for %s: "+means, name, strings.Join(on, " and "), d.Name)
		c.Fix = strings.Join(set, "; ") + "; and in /etc/sysctl.d, so that it lasts"
	case failed != nil:
		// Off is what kernels come up with, and what is not read is no reason to call it on.
		c.Why, c.Weight = "not known: "+unread(failed), min(w, Warns)
	default:
		c.Answer, c.Why = Yes, "0 for "+d.Name+" and all"
	}
	return c
}

// reversePathCheck: strict reverse path filtering drops what is decrypted by the userspace device,
// and ARP's answers, unless routes lead back by the same device (RFC 3704). The larger of the
// device's value and that of all counts.
func (s *survey) reversePathCheck(d *device) Check {
	c := Check{ID: "topology.rp-filter", Title: "rp_filter is not strict", Weight: Warns}
	highest := ""
	for _, of := range []string{d.Name, "all"} {
		file := sysctlFile("ipv4", of, "rp_filter")
		value, err := s.read(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // without IPv4, or in a kernel without it
		}
		if err != nil {
			c.Evidence = append(c.Evidence, Evidence{"/" + file, ""})
			c.Why = "not known: " + unread(err)
			return c
		}
		c.Evidence = append(c.Evidence, Evidence{"/" + file, value})
		highest = max(highest, value)
	}
	switch highest {
	case "":
		c.Answer, c.Why = Yes, "no IPv4 here"
		c.Evidence = []Evidence{{"/" + sysctlFile("ipv4", d.Name, "rp_filter"), "not there"}}
	case "0":
		c.Answer, c.Why = Yes, "off"
	case "2":
		c.Answer, c.Why = Yes, "loose"
	case "1":
		c.Answer, c.Why = No, "rp_filter is strict: what would be answered by another way is dropped, as with espalier's userspace device or two uplinks"
		c.Fix = "sysctl -w " + sysctl("ipv4", d.Name, "rp_filter") + "=2; and in /etc/sysctl.d, so that it lasts. The kernel's own ESP does not mind on a host with one uplink."
	default:
		c.Why = fmt.Sprintf("%q is no value of it", highest)
	}
	return c
}
