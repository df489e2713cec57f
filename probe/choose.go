package probe

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// LeftOut is a device that was not examined, and why.
type LeftOut struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// choose takes the NICs of this network namespace that could offload ESP. Left out, with the
// reason, is other hardware, and what sits on the NICs taken; virtual devices that have nothing to
// do with either are not mentioned: a host of containers has hundreds.
func (s *survey) choose() (devices []string, leftOut []LeftOut, err error) {
	links, err := s.links()
	if err != nil {
		return nil, nil, err
	}
	links = slices.Clone(links)
	slices.SortFunc(links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	hardware := make(map[int]bool)
	for _, l := range links {
		if l.Kind != "" || l.Loopback {
			continue
		}
		d, err := s.look(l.Name)
		if err != nil || d.driver.Bus == "" && d.Parent == "" {
			continue
		}
		hardware[l.Index] = true
		if why := s.whyNotChosen(d); why != "" {
			leftOut = append(leftOut, LeftOut{l.Name, why})
		} else {
			devices = append(devices, l.Name)
		}
	}
	for _, l := range links {
		switch {
		case l.Kind == "bond" || l.Kind == "bridge" || l.Kind == "openvswitch":
			if ports := s.ports(l.Index); slices.ContainsFunc(ports, func(p Link) bool { return hardware[p.Index] }) {
				leftOut = append(leftOut, LeftOut{l.Name, kindName(l.Kind) + " of " + linkNames(ports) + ": name it to have it examined"})
			}
		case l.Lower != 0 && !l.Elsewhere && hardware[l.Lower]:
			leftOut = append(leftOut, LeftOut{l.Name, kindName(l.Kind) + " on " + s.link(l.Lower).Name + ": name it to have it examined"})
		}
	}
	return devices, leftOut, nil
}

// whyNotChosen is "" for hardware that could offload: the device says so, or its driver could and
// nothing says that the card cannot.
func (s *survey) whyNotChosen(d *device) string {
	if features, err := s.network.Features(d.Name); err == nil && features[espOffload].On {
		return ""
	}
	product := d.function.product
	switch {
	case isRepresentor(d):
		return "a representor: SAs belong to the function itself"
	case product != nil && product.ESP == OffloadsNot:
		return product.Name + ": the card does not offload ESP"
	case product != nil:
		return ""
	case d.esp == nil && d.driver.Name == "":
		return "no driver that says so"
	case d.esp == nil:
		return fmt.Sprintf("driver %s does not say that it offloads ESP", d.driver.Name)
	case d.esp.ESP == OffloadsNot:
		return fmt.Sprintf("driver %s (%s) has no ESP offload", d.driver.Name, d.esp.Note)
	}
	return ""
}

// ports of a bond or bridge.
func (s *survey) ports(master int) []Link {
	links, _ := s.links()
	var ports []Link
	for _, l := range links {
		if l.Master == master && master != 0 {
			ports = append(ports, l)
		}
	}
	return ports
}

func linkNames(links []Link) string {
	names := make([]string, 0, len(links))
	for _, l := range links {
		names = append(names, l.Name)
	}
	return strings.Join(names, ", ")
}

// kindName is a kind of link in words.
func kindName(kind string) string {
	switch kind {
	case "vlan":
		return "VLAN"
	case "openvswitch":
		return "Open vSwitch bridge"
	case "":
		return "device"
	}
	return kind
}
