package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"espalier/deploy/steps"
	"espalier/guard"
	"espalier/internal/usedkeys"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// Inbound adds the SAs by which this host receives, and reads them back. The question's keys are wiped.
func (h *Host) Inbound(ctx context.Context, q steps.SAsQuestion) (steps.SAsAnswer, error) {
	return h.add(ctx, q, func(p *steps.PairEnd) []tunnel.SAID { return p.Inbound }, false)
}

// Outbound adds the SAs by which this host sends, as Inbound does. They are newer than those that are
// there, and so carry the traffic from now on.
func (h *Host) Outbound(ctx context.Context, q steps.SAsQuestion) (steps.SAsAnswer, error) {
	return h.add(ctx, q, func(p *steps.PairEnd) []tunnel.SAID { return p.Outbound }, true)
}

// addition is an SA that is to be added.
type addition struct {
	pair   int
	engine Engine
	state  *xfrm.State
}

func (h *Host) add(ctx context.Context, q steps.SAsQuestion, announced func(*steps.PairEnd) []tunnel.SAID, sending bool) (a steps.SAsAnswer, err error) {
	var adds []addition
	defer func() {
		for _, a := range adds {
			a.state.WipeKeys()
		}
		for _, payload := range q.SAs {
			clear(payload)
		}
	}()
	err = h.under(ctx, func(r *round) error {
		c, err := r.openChange(q.Change)
		if err != nil {
			return err
		}
		for _, payload := range q.SAs {
			s, err := xfrm.DecodeState(payload)
			if err != nil {
				return err
			}
			adds = append(adds, addition{state: s})
			if err := r.announced(c, &adds[len(adds)-1], announced); err != nil {
				return err
			}
		}
		if err := r.holdPorts(c, adds, sending); err != nil {
			return err
		}
		a.SAs, err = r.install(c, adds, sending)
		if err == nil && sending {
			err = r.newest(c, adds)
		}
		return err
	})
	return a, err
}

// announced finds the pair that an SA was announced for by Begin.
func (r *round) announced(c *Change, a *addition, list func(*steps.PairEnd) []tunnel.SAID) (err error) {
	id := a.state.ID()
	a.pair = slices.IndexFunc(c.Begin.Pairs, func(p steps.PairEnd) bool {
		return slices.ContainsFunc(list(&p), func(said tunnel.SAID) bool { return sameID(stateID(said), id) })
	})
	if a.pair < 0 {
		return fmt.Errorf("SA %s is none of those that the change began with", id)
	}
	if a.state.AEAD == nil || a.state.AEAD.Key.Len() == 0 {
		return fmt.Errorf("SA %s has no AES-GCM key", id)
	}
	a.engine, err = r.engines.get(c.Begin.Pairs[a.pair].Engine)
	return err
}

// sameID compares with the marks.
func sameID(a, b xfrm.StateID) bool {
	if (a.Mark == nil) != (b.Mark == nil) || a.Mark != nil && *a.Mark != *b.Mark {
		return false
	}
	return a.Src == b.Src && a.Dst == b.Dst && a.Proto == b.Proto && a.SPI == b.SPI
}

// holdPorts writes down which UDP ports ESP comes by, and sees to it that they are held.
func (r *round) holdPorts(c *Change, adds []addition, sending bool) error {
	changed := false
	for _, a := range adds {
		if e, ok := encapOf(a.state, sending); ok && !slices.Contains(c.Pairs[a.pair].Encaps, e) {
			c.Pairs[a.pair].Encaps = append(slices.Clone(c.Pairs[a.pair].Encaps), e)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	if err := r.write(r.j); err != nil {
		return err
	}
	return r.hold()
}

// encapOf are the ends of an SA's UDP encapsulation.
func encapOf(s *xfrm.State, sending bool) (guard.Encap, bool) {
	if s.Encap == nil {
		return guard.Encap{}, false
	}
	src, dst := netip.AddrPortFrom(s.Src, s.Encap.SrcPort), netip.AddrPortFrom(s.Dst, s.Encap.DstPort)
	if sending {
		return guard.Encap{Local: src, Remote: dst}, true
	}
	return guard.Encap{Local: dst, Remote: src}, true
}

// install adds SAs whose keys have not been used before, in their order, up to the first that is refused.
func (r *round) install(c *Change, adds []addition, sending bool) (read []steps.ReadBack, err error) {
	record, err := usedkeys.Open(r.cfg.Keys)
	if err != nil {
		return nil, fmt.Errorf("%w: without it nobody knows if a key was used before", err)
	}
	defer func() { err = errors.Join(err, record.Close()) }()
	uses := make([]usedkeys.Use, len(adds))
	for i, a := range adds {
		scope := c.Begin.Pairs[a.pair].Engine
		if scope == kernelEngine {
			scope = usedkeys.KernelScope()
		}
		uses[i] = usedkeys.Use{Key: a.state.AEAD.Key, Sends: sending, Scope: scope}
	}
	claim, refused, err := record.Claim(uses...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, claim.Close()) }()
	for i, a := range adds {
		there, err := a.engine.GetState(r.ctx, a.state.ID())
		switch {
		case err == nil: // it was asked for before
			there.WipeKeys()
		case !errors.Is(err, ipsec.ErrNotExist):
			return nil, err
		case refused[i] != nil:
			return nil, fmt.Errorf("SA %s: %w", a.state.ID(), refused[i])
		default:
			claim.Installed(i) // also if it fails in a way that leaves it there
			if err := a.engine.AddState(r.ctx, a.state); err != nil {
				return nil, err
			}
		}
		back, err := readBack(r.ctx, a.engine, a.state)
		if err != nil {
			return nil, err
		}
		read = append(read, back)
	}
	return read, nil
}

// newest makes sure that Linux sends by new SAs: of those for a packet it takes the one that was added last by
// the time of day (net/xfrm/xfrm_state.c, xfrm_state_look_at), which may have been set back meanwhile.
func (r *round) newest(c *Change, adds []addition) error {
	for _, a := range adds {
		p := &c.Begin.Pairs[a.pair]
		if p.Engine != kernelEngine {
			continue
		}
		added, err := addTime(r.ctx, a.engine, a.state.ID())
		if err != nil {
			return err
		}
		for _, id := range p.Old {
			if id.Src != p.Local {
				continue
			}
			was, err := addTime(r.ctx, a.engine, stateID(id))
			if err != nil && !errors.Is(err, ipsec.ErrNotExist) {
				return err
			}
			if err == nil && was > added {
				ahead := time.Duration(was-added) * time.Second
				return fmt.Errorf("the clock of this host was set back since SA %s was added, and Linux sends by the SA that was added last by the clock: "+
					"that will not be a new one for another %s. Set the clock, wait, or `espalier down` and apply", id.SAID, ahead)
			}
		}
	}
	return nil
}

// addTime is the time of day at which an SA was added, in seconds.
func addTime(ctx context.Context, e Engine, id xfrm.StateID) (uint64, error) {
	s, err := e.GetState(ctx, id)
	if err != nil {
		return 0, err
	}
	s.WipeKeys()
	return s.Current.AddTime, nil
}

// readBack is what the engine has of an SA.
func readBack(ctx context.Context, e Engine, want *xfrm.State) (steps.ReadBack, error) {
	s, err := e.GetState(ctx, want.ID())
	if err != nil {
		return steps.ReadBack{}, err
	}
	defer s.WipeKeys()
	if s.Mode != want.Mode || s.Reqid != want.Reqid || s.Src != want.Src || s.IfID != want.IfID || (s.Encap == nil) != (want.Encap == nil) {
		return steps.ReadBack{}, fmt.Errorf("SA %s reads back otherwise than it was added", want.ID())
	}
	b := steps.ReadBack{Offload: ipsec.NoOffload.String(), ESN: s.Flags&xfrm.FlagESN != 0, Window: s.ReplayWindow, CPU: s.PCPU != nil}
	if s.Offload != nil {
		b.Offload = ipsec.CryptoOffload.String()
		if s.Offload.Flags&xfrm.OffloadPacket != 0 {
			b.Offload = ipsec.PacketOffload.String()
		}
	}
	return b, nil
}
