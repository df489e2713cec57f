package guard

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// HostPolicy is a policy that the host's guard keeps without a process.
type HostPolicy struct {
	ipsec.Policy
	// Device is the underlay device of the userspace engine that has the policy, which need not exist
	// yet; "" if the kernel has it. The policy then holds back cleartext on that device only, and what
	// comes and goes by the engine's TUN is none of its business.
	Device string `json:",omitempty"`
	// Mark of the packets it is about, under Mask; 0 and 0: all.
	Mark, Mask uint32 `json:",omitempty"`
	// PacketOffload is for policies of SAs that the NIC encrypts and frames: their packets pass through
	// the stack once more, as cleartext.
	PacketOffload bool `json:",omitempty"`
}

// HostRules are what the host's guard keeps.
type HostRules struct {
	Policies []HostPolicy // of equal priority the first given decides
	Encaps   []Encap      // admitted between their very ends and ports
	Detours  []Detour     // admitted where there are policies at all
}

// ApplyHost puts a guard for the rules in the place of the one there is, in one transaction, in the
// network namespace of the calling thread. On an error what was there stays. Without policies it is
// ReleaseHost. It wraps ipsec.ErrInvalid if an argument is at fault.
func ApplyHost(r HostRules) error {
	entries, encaps, err := r.check()
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return ReleaseHost()
	}
	return withConn(func(c *conn) error {
		before, err := c.readDrops(hostTable)
		if err != nil {
			return err
		}
		return c.commit(hostRequests(&r, entries, encaps, before))
	})
}

// Check tells what ApplyHost would not take.
func (r *HostRules) Check() error {
	_, _, err := r.check()
	return err
}

func (r *HostRules) check() ([]*ranked, []Encap, error) {
	encaps, err := checkEnds(r.Encaps)
	if err != nil {
		return nil, nil, fmt.Errorf("guard: %w", err)
	}
	for i := range r.Detours {
		if err := r.Detours[i].Check(); err != nil {
			return nil, nil, fmt.Errorf("guard: %w", err)
		}
	}
	entries, err := hostEntries(r.Policies)
	return entries, encaps, err
}

// ReleaseHost removes the host's guard; without one it does nothing.
func ReleaseHost() error {
	return withConn(func(c *conn) error {
		t := tableRequests{of: hostTable}
		t.table(unix.NFT_MSG_DELTABLE, 0)
		if err := c.commit(t.requests); !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	})
}

// HostCounters reads what the host's guard has dropped, and whether it is there.
func HostCounters() (counted Counters, loaded bool, err error) {
	err = withConn(func(c *conn) error {
		msgs, err := c.dump(unix.NFT_MSG_GETOBJ, hostTable)
		for _, m := range msgs {
			table, object, n, err := decodeCounter(m)
			switch {
			case err != nil:
				return err
			case table != hostTable.name:
			case object == hostIn.counter:
				counted.In, loaded = n.packets, true
			case object == hostOut.counter:
				counted.Out, loaded = n.packets, true
			}
		}
		return err
	})
	return counted, loaded, err
}

func withConn(do func(*conn) error) error {
	c, err := dial()
	if err == nil {
		err = errors.Join(do(c), c.close())
	}
	if err != nil {
		return fmt.Errorf("guard of the host: %w", err)
	}
	return nil
}

// hostEntries are those of the policies, each at its place.
func hostEntries(policies []HostPolicy) ([]*ranked, error) {
	all := make([]*ranked, len(policies))
	for i := range policies {
		p := &policies[i]
		e, err := newEntry(&p.Policy)
		e.Mark, e.Mask = p.Mark, p.Mask
		switch {
		case err != nil:
		case p.Mark&^p.Mask != 0:
			err = fmt.Errorf("%w: mark %#x has bits outside its mask %#x", ipsec.ErrInvalid, p.Mark, p.Mask)
		case len(p.Device) >= unix.IFNAMSIZ:
			err = fmt.Errorf("%w: device %q: the name is too long", ipsec.ErrInvalid, p.Device)
		}
		if err != nil {
			return nil, fmt.Errorf("guard: policy %s: %w", p.ID(), err)
		}
		all[i] = &ranked{e, uint64(i)}
	}
	return all, nil
}

// hostRequests make the host's table.
func hostRequests(r *HostRules, entries []*ranked, encaps []Encap, from drops) []request {
	policies := r.Policies
	t := tableRequests{of: hostTable}
	t.anew(from)
	var chains []chain
	id := uint32(0)
	for _, d := range spds(policies) {
		var own []*ranked
		for i, e := range entries {
			// The index of an interface says nothing at the next boot.
			if policies[i].Device == d && (e.Selector.Interface == 0 || !e.admits()) {
				own = append(own, e)
			}
		}
		slices.SortFunc(own, (*ranked).compare)
		for _, s := range []side{hostIn, hostOut} {
			mine := slices.DeleteFunc(slices.Clone(own), func(e *ranked) bool { return !s.has(e.Direction) })
			if !slices.ContainsFunc(mine, func(e *ranked) bool { return !e.admits() }) {
				continue
			}
			if d != "" {
				s.name += "_" + nameOf(d)
				s.hook += "_" + nameOf(d)
			}
			chains = append(chains, s.hostChain(d, packetOffloaded(policies, entries, s, d), r.Detours))
			for _, f := range families {
				some, w := s.familyChains(f, nil, mine, encaps, setFrom)
				chains = append(chains, some...)
				w.sets(func(s *set) {
					id++
					t.filled(s, id)
				})
			}
		}
	}
	t.chains(chains, "")
	return t.requests
}

// spds are the devices that have an SPD of their own, the kernel's ("") first.
func spds(policies []HostPolicy) []string {
	var all []string
	for i := range policies {
		all = append(all, policies[i].Device)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// packetOffloaded are the entries whose packets a NIC encrypts and frames.
func packetOffloaded(policies []HostPolicy, entries []*ranked, s side, device string) []*ranked {
	var some []*ranked
	for i, e := range entries {
		if policies[i].PacketOffload && policies[i].Device == device && e.Action == ipsec.Protect && s.has(e.Direction) {
			some = append(some, e)
		}
	}
	return some
}
