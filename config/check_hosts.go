package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"unicode"
)

const (
	mostHosts   = 64 // of a tunnel: as a full mesh it has 2016 pairs
	mostSubnets = 64 // of a host
)

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// names checks those of the tunnels.
func (c *checker) names() {
	first := map[string]*Tunnel{}
	for i := range c.file.Tunnels {
		t := &c.file.Tunnels[i]
		if !c.given(t.place, "name") {
			continue
		}
		if before := first[t.Name]; before != nil {
			c.problem(t.place, "name", fmt.Sprintf("there is a tunnel %s already, in line %d", quoted(t.Name), before.Place("name").Line), "give it another name")
			continue
		}
		first[t.Name] = t
		if !nameForm.MatchString(t.Name) {
			c.problem(t.place, "name", fmt.Sprintf("%s is no name for a tunnel", quoted(t.Name)), "use up to 63 letters, digits, dots, underscores and hyphens")
		}
	}
}

// sameHosts lets what is said of an address in one tunnel count in all, and tells where it is not
// the same.
func (c *checker) sameHosts() {
	known := map[netip.Addr]*Host{} // what is known of an address; the first place it was said at
	each := func(do func(h, known *Host)) {
		for i := range c.file.Tunnels {
			for j := range c.file.Tunnels[i].Hosts {
				if h := &c.file.Tunnels[i].Hosts[j]; h.Address.IsValid() {
					if known[h.Address] == nil {
						known[h.Address] = &Host{place: h.place}
					}
					do(h, known[h.Address])
				}
			}
		}
	}
	each(func(h, k *Host) {
		differ := func(setting string, before place, one, other string) {
			c.problem(h.place, setting, fmt.Sprintf("%s of %s is %s here and %s in line %d", setting, h.Address, one, other, before.of(setting).Line),
				"say the same, or say it once: it counts in all tunnels")
		}
		if k.Dev == "" && h.Dev != "" {
			k.Dev, k.place = h.Dev, h.place
		} else if h.Dev != "" && h.Dev != k.Dev {
			differ("dev", k.place, quoted(h.Dev), quoted(k.Dev))
		}
		if k.SSH == nil {
			k.SSH = h.SSH
		} else if h.SSH != nil && *h.SSH != *k.SSH {
			c.problem(h.place, "ssh", fmt.Sprintf("ssh of %s is not what it is in another tunnel", h.Address), "say the same, or say it once: it counts in all tunnels")
		}
		if k.Sudo == "" {
			k.Sudo = h.Sudo
		} else if h.Sudo != "" && h.Sudo != k.Sudo {
			c.problem(h.place, "sudo", fmt.Sprintf("sudo of %s is %s here and %s in another tunnel", h.Address, h.Sudo, k.Sudo), "say the same, or say it once: it counts in all tunnels")
		}
	})
	each(func(h, k *Host) {
		orElse(&h.Dev, k.Dev)
		orElse(&h.Sudo, k.Sudo)
		if h.SSH == nil && k.SSH != nil {
			ssh := *k.SSH
			h.SSH = &ssh
		}
	})
}

// hosts checks those of a tunnel, one by one and beside each other; false: there is too much to go on.
func (c *checker) hosts(t *Tunnel) bool {
	if len(t.Hosts) < 2 && c.given(t.place, "hosts") {
		c.problem(t.place, "hosts", fmt.Sprintf("a tunnel with %d hosts", len(t.Hosts)), "give it two, or more for a mesh")
	}
	if len(t.Hosts) > mostHosts {
		c.problem(t.place, "hosts", fmt.Sprintf("a mesh of %d hosts", len(t.Hosts)), fmt.Sprintf("make several tunnels of up to %d hosts", mostHosts))
		return false
	}
	few := true
	var first *Host // with an address
	seen := map[netip.Addr]*Host{}
	for i := range t.Hosts {
		h := &t.Hosts[i]
		c.device(h)
		c.ssh(h)
		if len(h.Subnets) > mostSubnets {
			c.problem(h.place, "subnets", fmt.Sprintf("a list of %d subnets", len(h.Subnets)), fmt.Sprintf("write up to %d, wider ones", mostSubnets))
			few = false
		}
		if !h.Address.IsValid() {
			continue
		}
		if before := seen[h.Address]; before != nil {
			c.problem(h.place, "address", fmt.Sprintf("address %s is that of another host of this tunnel, in line %d", h.Address, before.Place("address").Line), "give the other host's")
		}
		seen[h.Address] = h
		if first == nil {
			first = h
		} else if h.Address.Is4() != first.Address.Is4() {
			c.problem(h.place, "address", fmt.Sprintf("%s is of another family than %s", h.Address, first.Address), "give all hosts of a tunnel IPv4, or all IPv6; make two tunnels for both")
		}
	}
	return few
}

func (c *checker) device(h *Host) {
	_, given := c.places[join(h.place.path, "dev")]
	switch {
	case h.Dev == "" && !given:
		if h.Address.IsValid() {
			c.problem(h.place, "address", fmt.Sprintf("host %s has no dev", h.Address), fmt.Sprintf("add dev: NAME; on the host, ip -o addr show to %s tells it", h.Address))
		}
	case h.Dev == "", h.Dev == ".", h.Dev == "..", strings.ContainsFunc(h.Dev, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		c.problem(h.place, "dev", fmt.Sprintf("%s is no name of a network device", quoted(h.Dev)), "write one such as p4p1; ip link lists them")
	case len(h.Dev) > 15:
		c.problem(h.place, "dev", fmt.Sprintf("%s is longer than network devices' names, 15 bytes", quoted(h.Dev)), "write the name that ip link shows")
	case h.Dev == "lo":
		c.problem(h.place, "dev", "lo leads to no other host", "write the device that has the address")
	}
}

// ssh checks that nothing of it is an option in disguise, or a secret.
func (c *checker) ssh(h *Host) {
	if h.SSH == nil {
		return
	}
	s := h.SSH
	if s.To != "" || c.given(h.place, "ssh.to") || c.given(h.place, "ssh") {
		user, _, hasUser := strings.Cut(strings.TrimPrefix(s.To, "ssh://"), "@")
		switch {
		case hasUser && strings.Contains(user, ":"):
			c.problem(h.place, "ssh", "ssh holds a password", "take it out, and change it; log in by key")
		case !plainWord(s.To) || user == "":
			c.problem(h.place, "ssh", fmt.Sprintf("ssh cannot go to %s", quoted(s.To)), "write USER@HOST, or a Host of ~/.ssh/config")
		}
	}
	if s.Jump != "" && !plainWord(s.Jump) {
		c.problem(h.place, "ssh.jump", fmt.Sprintf("ssh cannot go by %s", quoted(s.Jump)), "write USER@HOST, or a Host of ~/.ssh/config")
	}
	switch {
	case strings.Contains(s.Identity, "PRIVATE KEY"):
		c.problem(h.place, "ssh.identity", "identity holds a private key", "take it out, and make another; write the path of its file")
	case strings.HasPrefix(s.Identity, "-") || strings.ContainsFunc(s.Identity, func(r rune) bool { return !unicode.IsPrint(r) }):
		c.problem(h.place, "ssh.identity", fmt.Sprintf("%s is no path of a key", quoted(s.Identity)), "write one such as ~/.ssh/id_ed25519")
	}
}

// plainWord: what ssh takes for one argument that is no option, and no shell for anything else.
func plainWord(s string) bool {
	return s != "" && len(s) <= 255 && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || strings.ContainsRune("'\"`$&|;<>(){}\\*?!#", r)
	})
}
