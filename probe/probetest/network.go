package probetest

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"

	"espalier/probe"
	"espalier/probe/firewall"
)

// join finds links by the names that others give them.
func (h *host) join() error {
	for name, l := range h.links {
		for to, index := range map[string]*int{l.On: &l.Lower, l.PortOf: &l.Master} {
			if to == "" {
				continue
			}
			other, ok := h.links[to]
			if !ok {
				return fmt.Errorf("link %s names %s, which is not there", name, to)
			}
			*index = other.Index
		}
	}
	seen := make(map[int]string)
	for name, l := range h.links {
		if other, twice := seen[l.Index]; twice {
			return fmt.Errorf("links %s and %s have one index", name, other)
		}
		seen[l.Index] = name
	}
	return nil
}

func (h *host) refuse(what string) error {
	if h.denied[what] {
		return fmt.Errorf("%s: %w", what, fs.ErrPermission)
	}
	return nil
}

// find is a link, or the error that the kernel has for none.
func (h *host) find(what, device string) (*link, error) {
	if err := h.refuse(what); err != nil {
		return nil, err
	}
	l, ok := h.links[device]
	if !ok {
		return nil, fmt.Errorf("%s of %s: %w (%w)", what, device, syscall.ENODEV, fs.ErrNotExist)
	}
	return l, nil
}

func (h *host) Links() ([]probe.Link, error) {
	var links []probe.Link
	for _, l := range h.links {
		links = append(links, l.Link)
	}
	slices.SortFunc(links, func(a, b probe.Link) int { return cmp.Compare(a.Index, b.Index) })
	return links, h.refuse("links")
}

func (h *host) Driver(device string) (probe.Driver, error) {
	l, err := h.find("driver", device)
	if err != nil {
		return probe.Driver{}, err
	}
	if l.Driver == nil {
		return probe.Driver{}, syscall.EOPNOTSUPP
	}
	return *l.Driver, nil
}

// featureNames are what the kernel lists for each device, however many it has.
var featureNames = []string{"esp-hw-offload", "esp-tx-csum-hw-offload", "tx-esp-segmentation"}

func (h *host) Features(device string) (map[string]probe.Feature, error) {
	l, err := h.find("features", device)
	if err != nil {
		return nil, err
	}
	features := make(map[string]probe.Feature)
	for _, name := range featureNames {
		features[name] = probe.Feature{Known: true, Fixed: true}
	}
	for name, text := range l.Features {
		f := probe.Feature{Known: text != "unknown", On: strings.HasPrefix(text, "on"), Fixed: strings.HasSuffix(text, "[fixed]")}
		if f.String() != text {
			return nil, fmt.Errorf("%s: %q is no state of a feature", name, text)
		}
		features[name] = f
	}
	return features, nil
}

func (h *host) Counters(device string) (map[string]uint64, error) {
	l, err := h.find("counters", device)
	if err != nil {
		return nil, err
	}
	return maps.Clone(l.Counters), nil
}

func (h *host) Speed(device string) (uint32, error) {
	l, err := h.find("speed", device)
	if err != nil {
		return 0, err
	}
	return l.Speed, nil
}

func (h *host) Queues(device string) (probe.Queues, error) {
	l, err := h.find("queues", device)
	if err != nil {
		return probe.Queues{}, err
	}
	if l.Queues == nil {
		return probe.Queues{}, syscall.EOPNOTSUPP
	}
	return *l.Queues, nil
}

func (h *host) Devlink() ([]probe.Devlink, error) {
	var devices []probe.Devlink
	for _, d := range h.devlink {
		out := d.Devlink
		for _, p := range d.Ports {
			p.IPsecCrypto, p.IPsecPacket = answers[p.Crypto], answers[p.Packet]
			out.Ports = append(out.Ports, p.DevlinkPort)
		}
		devices = append(devices, out)
	}
	return devices, h.refuse("devlink")
}

var answers = map[string]probe.Answer{"yes": probe.Yes, "no": probe.No}

func (h *host) Chains() ([]firewall.Chain, error) { return h.chains, h.refuse("chains") }
