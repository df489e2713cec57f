package script

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Host is what a host would have after its scripts, had it nothing before.
type Host struct {
	Name      string       // as it was given, else its network namespace, else its first file
	Files     []string     // names of its scripts
	Addresses []netip.Addr // its own, as far as the scripts tell

	States   []*xfrm.State
	StateAt  []At // of each
	Policies []*xfrm.Policy
	PolicyAt []At
	// Defaults of packets without a policy, nil: as Linux has them.
	Defaults *xfrm.Defaults
	// Refused are commands for SAs and policies that are there already.
	Refused []Again

	own      map[netip.Addr]bool // Addresses
	byID     map[stateKey]int    // of States; nil: to be made
	byPolicy map[policyKey]int   // of Policies; nil: to be made
}

// Has reports whether an address is the host's own, as far as the scripts tell.
func (h *Host) Has(a netip.Addr) bool { return h.own[a] }

// At is where a command stands.
type At struct {
	Script  *Script
	Command *Command
}

// Again is a command that adds what another one has added.
type Again struct {
	At, First At
	State     *xfrm.State // of the two
	Policy    *xfrm.Policy
}

// unit is what one script does in one network namespace.
type unit struct {
	script    *Script
	namespace string
	name      string // given
	commands  []*Command
	local     []netip.Addr
	host      *Host
}

// Hosts puts together what is of one host: what is named alike, is in one network namespace, or has an address in
// common that is the host's own. A script of which no direction tells whose it is belongs to the only host that there is
// besides. names are those given to the scripts, "" for none.
func Hosts(scripts []*Script, names []string) []*Host {
	units := unitsOf(scripts, names)
	var hosts []*Host
	for _, u := range units {
		for _, before := range units {
			if before.host != nil && u.sameHost(before) {
				u.host = before.host
				break
			}
		}
		if u.host == nil && (u.name != "" || u.namespace != "" || len(u.local) > 0) {
			u.host = &Host{Name: u.label()}
			hosts = append(hosts, u.host)
		}
	}
	known := len(hosts)
	for _, u := range units {
		if u.host == nil && known == 1 {
			u.host = hosts[0]
		} else if u.host == nil {
			u.host = &Host{Name: u.label()}
			hosts = append(hosts, u.host)
		}
	}
	for _, u := range units {
		u.host.apply(u)
	}
	return hosts
}

func unitsOf(scripts []*Script, names []string) (units []*unit) {
	for i, s := range scripts {
		of := map[string]*unit{}
		for j := range s.Commands {
			c := &s.Commands[j]
			u := of[c.Namespace]
			if u == nil {
				u = &unit{script: s, namespace: c.Namespace, name: names[i]}
				of[c.Namespace] = u
				units = append(units, u)
			}
			u.commands = append(u.commands, c)
		}
		if len(s.Commands) == 0 {
			units = append(units, &unit{script: s, name: names[i]})
		}
	}
	for _, u := range units {
		u.local = u.addresses()
	}
	return units
}

func (u *unit) label() string {
	switch {
	case u.name != "":
		return u.name
	case u.namespace != "":
		return u.namespace
	}
	return strings.TrimSuffix(strings.TrimSuffix(path.Base(u.script.Name), path.Ext(u.script.Name)), ".xfrm")
}

func (u *unit) sameHost(other *unit) bool {
	if u.name != "" && other.name != "" || u.namespace != "" && other.namespace != "" {
		return u.name == other.name && u.namespace == other.namespace
	}
	return u.script != other.script && haveCommon(u.local, other.local)
}

// haveCommon looks at two sorted lists.
func haveCommon(a, b []netip.Addr) bool {
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Compare(b[0]); {
		case c == 0:
			return true
		case c < 0:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return false
}

// addresses are those that more is said to be sent from and received at than the other way round.
func (u *unit) addresses() (local []netip.Addr) {
	votes := map[netip.Addr]int{}
	say := func(near, far netip.Addr) {
		if near.IsValid() && !near.IsUnspecified() && far.IsValid() {
			votes[near]++
			votes[far]--
		}
	}
	for _, c := range u.commands {
		if c.Parsed == nil {
			continue
		}
		if s := c.Parsed.State; s != nil {
			switch DirectionOf(s) {
			case ipsec.Outbound:
				say(s.Src, s.Dst)
			case ipsec.Inbound:
				say(s.Dst, s.Src)
			}
		}
		if p := c.Parsed.Policy; p != nil && len(p.Tmpls) > 0 {
			src, dst := Ends(p)
			if p.Dir == xfrm.PolicyOut {
				say(src, dst)
			} else {
				say(dst, src)
			}
		}
	}
	for a, n := range votes {
		if n > 0 {
			local = append(local, a)
		}
	}
	slices.SortFunc(local, netip.Addr.Compare)
	return local
}

// DirectionOf is what a state says itself.
func DirectionOf(s *xfrm.State) ipsec.Direction {
	switch {
	case s.Dir == xfrm.StateDirOut, s.Dir == 0 && s.Offload != nil && s.Offload.Flags&xfrm.OffloadInbound == 0:
		return ipsec.Outbound
	case s.Dir == xfrm.StateDirIn, s.Offload != nil:
		return ipsec.Inbound
	}
	return ipsec.AnyDirection
}

// Ends are where ESP of a policy comes from and goes to: the addresses of its template, or in transport mode without
// those the hosts of its selector.
func Ends(p *xfrm.Policy) (src, dst netip.Addr) {
	t := &p.Tmpls[0]
	src, dst = t.Src, t.Dst
	if p.Sel.Src.IsSingleIP() && t.Mode == xfrm.ModeTransport {
		src = p.Sel.Src.Addr()
	}
	if p.Sel.Dst.IsSingleIP() && t.Mode == xfrm.ModeTransport {
		dst = p.Sel.Dst.Addr()
	}
	return src, dst
}

// apply carries out the commands of a unit.
func (h *Host) apply(u *unit) {
	h.Files = append(h.Files, u.script.Name)
	if h.own == nil {
		h.own = map[netip.Addr]bool{}
	}
	for _, a := range u.local {
		if !h.own[a] {
			h.own[a] = true
			h.Addresses = append(h.Addresses, a)
		}
	}
	for _, c := range u.commands {
		if c.Parsed == nil {
			continue
		}
		at := At{u.script, c}
		if c.Parsed.Object == xfrm.ObjectState {
			h.state(c.Parsed, at)
		} else {
			h.policy(c.Parsed, at)
		}
	}
}

func (h *Host) state(cmd *xfrm.Command, at At) {
	switch cmd.Verb {
	case xfrm.VerbAdd, xfrm.VerbUpdate:
		id := keyOfState(cmd.State.ID())
		i, there := h.stateIndex()[id]
		switch {
		case !there:
			h.byID[id] = len(h.States)
			h.States, h.StateAt = append(h.States, cmd.State), append(h.StateAt, at)
		case cmd.Verb == xfrm.VerbAdd:
			h.Refused = append(h.Refused, Again{At: at, First: h.StateAt[i], State: cmd.State})
		}
	case xfrm.VerbDelete:
		h.deleteStates(func(s *xfrm.State) bool { return keyOfState(s.ID()) == keyOfState(*cmd.StateID) })
	case xfrm.VerbDeleteAll:
		h.deleteStates(cmd.StateFilter.Match)
	case xfrm.VerbFlush:
		h.deleteStates(func(s *xfrm.State) bool { return cmd.FlushProto == 0 || s.Proto == cmd.FlushProto })
	}
}

func (h *Host) deleteStates(which func(*xfrm.State) bool) {
	for i := len(h.States) - 1; i >= 0; i-- {
		if which(h.States[i]) {
			h.States, h.StateAt, h.byID = slices.Delete(h.States, i, i+1), slices.Delete(h.StateAt, i, i+1), nil
		}
	}
}

// stateKey is what the kernel tells states apart by.
type stateKey struct {
	dst    netip.Addr
	proto  uint8
	spi    ipsec.SPI
	mark   xfrm.Mark
	marked bool
}

func keyOfState(id xfrm.StateID) stateKey {
	k := stateKey{dst: id.Dst, proto: id.Proto, spi: id.SPI}
	if id.Mark != nil {
		k.mark, k.marked = *id.Mark, true
	}
	return k
}

func (h *Host) stateIndex() map[stateKey]int {
	if h.byID == nil {
		h.byID = map[stateKey]int{}
		for i, s := range h.States {
			h.byID[keyOfState(s.ID())] = i
		}
	}
	return h.byID
}

// policyKey is what the kernel tells policies apart by.
type policyKey struct {
	sel    ipsec.Selector
	family uint16
	dir    xfrm.PolicyDir
	kind   xfrm.PolicyType
	ifID   uint32
	mark   xfrm.Mark
	marked bool
}

func keyOfPolicy(id xfrm.PolicyID) policyKey {
	k := policyKey{sel: id.Sel.Selector, family: id.Sel.Family, dir: id.Dir, kind: id.Type, ifID: id.IfID}
	if id.Mark != nil {
		k.mark, k.marked = *id.Mark, true
	}
	return k
}

func (h *Host) policyIndex() map[policyKey]int {
	if h.byPolicy == nil {
		h.byPolicy = map[policyKey]int{}
		for i, p := range h.Policies {
			h.byPolicy[keyOfPolicy(p.ID())] = i
		}
	}
	return h.byPolicy
}

func (h *Host) policy(cmd *xfrm.Command, at At) {
	switch cmd.Verb {
	case xfrm.VerbAdd, xfrm.VerbUpdate:
		id := keyOfPolicy(cmd.Policy.ID())
		i, there := h.policyIndex()[id]
		switch {
		case !there:
			h.byPolicy[id] = len(h.Policies)
			h.Policies, h.PolicyAt = append(h.Policies, cmd.Policy), append(h.PolicyAt, at)
		case cmd.Verb == xfrm.VerbAdd:
			h.Refused = append(h.Refused, Again{At: at, First: h.PolicyAt[i], Policy: cmd.Policy})
		default:
			h.Policies[i], h.PolicyAt[i] = cmd.Policy, at
		}
	case xfrm.VerbDelete:
		h.deletePolicies(func(p *xfrm.Policy) bool {
			if cmd.PolicyID.Index != 0 {
				return p.Index == cmd.PolicyID.Index && p.Dir == cmd.PolicyID.Dir
			}
			return keyOfPolicy(p.ID()) == keyOfPolicy(*cmd.PolicyID)
		})
	case xfrm.VerbDeleteAll:
		h.deletePolicies(cmd.PolicyQuery.Match)
	case xfrm.VerbFlush:
		h.deletePolicies(func(p *xfrm.Policy) bool { return p.Type == cmd.FlushType })
	case xfrm.VerbSetDefault:
		if h.Defaults == nil {
			h.Defaults = &xfrm.Defaults{}
		}
		for _, d := range []struct{ to, from *xfrm.DefaultAction }{
			{&h.Defaults.In, &cmd.Defaults.In}, {&h.Defaults.Fwd, &cmd.Defaults.Fwd}, {&h.Defaults.Out, &cmd.Defaults.Out},
		} {
			if *d.from != xfrm.DefaultUnspec {
				*d.to = *d.from
			}
		}
	}
}

func (h *Host) deletePolicies(which func(*xfrm.Policy) bool) {
	for i := len(h.Policies) - 1; i >= 0; i-- {
		if which(h.Policies[i]) {
			h.Policies, h.PolicyAt, h.byPolicy = slices.Delete(h.Policies, i, i+1), slices.Delete(h.PolicyAt, i, i+1), nil
		}
	}
}
