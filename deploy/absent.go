package deploy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"espalier/config"
)

// Absent are the hosts of a file that take no part in a change, by how they are reached; those without
// ssh by their address.
type Absent map[config.SSH]bool

// Without are the hosts of a file, as it is and as it was before, by these names: an ssh destination, what is
// behind its @, or an address.
func Without(f *config.File, former []*config.File, names []string) (Absent, error) {
	absent := Absent{}
	for _, name := range names {
		found := false
		for h := range everyHost(f, former) {
			if called(h, name) {
				absent[reached(h)], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("%s has no host %s: its ssh destination or an address goes here", f.Name, name)
		}
	}
	return absent, nil
}

func called(h *config.Host, name string) bool {
	to := reached(h).To
	return name == to || name == to[strings.LastIndexByte(to, '@')+1:] || name == h.Address.String()
}

func reached(h *config.Host) config.SSH {
	if h.SSH != nil {
		return *h.SSH
	}
	return config.SSH{To: h.Address.String()}
}

// Has reports whether a host of the file is absent.
func (a Absent) Has(h *config.Host) bool { return a[reached(h)] }

// Names of the hosts.
func (a Absent) Names() []string {
	names := map[string]bool{}
	for ssh := range a {
		names[ssh.To] = true
	}
	return slices.Sorted(maps.Keys(names))
}
