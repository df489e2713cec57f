package deploy

import (
	"iter"
	"net/netip"

	"espalier/config"
)

// everyHost gives the hosts of a file, and those that it had before and has no more.
func everyHost(f *config.File, former []*config.File) iter.Seq[*config.Host] {
	return func(yield func(*config.Host) bool) {
		for h := range HostsOf(f) {
			if !yield(h) {
				return
			}
		}
		for _, old := range former {
			for h := range Gone(old, f) {
				if !yield(h) {
					return
				}
			}
		}
	}
}

// Gone are the hosts of a file as it was before that are no longer in it, by their addresses: what they have of it
// is to go.
func Gone(former, f *config.File) iter.Seq[*config.Host] {
	in := map[netip.Addr]bool{}
	for h := range HostsOf(f) {
		in[h.Address] = true
	}
	return func(yield func(*config.Host) bool) {
		for h := range HostsOf(former) {
			if !in[h.Address] && !yield(h) {
				return
			}
		}
	}
}

// HostsOf are the hosts of all tunnels of a file; one may come several times.
func HostsOf(f *config.File) iter.Seq[*config.Host] {
	return func(yield func(*config.Host) bool) {
		for i := range f.Tunnels {
			for j := range f.Tunnels[i].Hosts {
				if !yield(&f.Tunnels[i].Hosts[j]) {
					return
				}
			}
		}
	}
}
