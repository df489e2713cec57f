package server

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"

	"espalier/ipsec"
	"espalier/xfrm"
)

func (s *Server) addPolicy(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	return s.installPolicy(ctx, m, s.db.AddPolicy)
}

func (s *Server) updatePolicy(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	return s.installPolicy(ctx, m, s.db.UpdatePolicy)
}

func (s *Server) installPolicy(ctx context.Context, m netlink.Message, install func(context.Context, ipsec.Policy) error) ([]netlink.Message, error) {
	xp, err := xfrm.DecodePolicy(m.Data)
	if err != nil {
		return nil, err
	}
	p, err := xp.EnginePolicy()
	if err != nil {
		return nil, err
	}
	if err := install(ctx, p); err != nil {
		return nil, err
	}
	s.log.Debug("policy installed", "policy", p.ID().String())
	// The event tells the index too, which the database may have assigned.
	if installed, err := s.db.LookupPolicy(ctx, p.ID()); err == nil {
		p = installed
	}
	s.notifyPolicy(m, &p)
	return nil, nil
}

func (s *Server) deletePolicy(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	p, id, err := s.lookupPolicy(ctx, m.Data)
	if err != nil {
		return nil, err
	}
	if err := s.db.DeletePolicy(ctx, id); err != nil {
		return nil, err
	}
	s.log.Debug("policy deleted", "policy", p.ID().String())
	s.notifyPolicy(m, &p)
	return nil, nil
}

func (s *Server) getPolicy(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	p, _, err := s.lookupPolicy(ctx, m.Data)
	if err != nil {
		return nil, err
	}
	data, err := encodePolicy(&p)
	if err != nil {
		return nil, err
	}
	return []netlink.Message{reply(m, netlink.HeaderType(xfrm.MsgNewPolicy), 0, data)}, nil
}

// lookupPolicy finds the policy of a GETPOLICY or DELPOLICY. The database's policies have
// neither mark nor if_id, so none goes by one.
func (s *Server) lookupPolicy(ctx context.Context, b []byte) (ipsec.Policy, ipsec.PolicyID, error) {
	xid, err := xfrm.DecodePolicyID(b)
	if err != nil {
		return ipsec.Policy{}, ipsec.PolicyID{}, err
	}
	if xid.IfID != 0 || xid.Mark != nil && *xid.Mark != (xfrm.Mark{}) {
		return ipsec.Policy{}, ipsec.PolicyID{}, fmt.Errorf("with a mark or if_id: %w", ipsec.ErrNotExist)
	}
	id, err := xid.IPsec()
	if err != nil {
		return ipsec.Policy{}, ipsec.PolicyID{}, err
	}
	p, err := s.db.LookupPolicy(ctx, id)
	return p, id, err
}

func encodePolicy(p *ipsec.Policy) ([]byte, error) {
	xp, err := xfrm.PolicyFromEngine(p)
	if err != nil {
		return nil, err
	}
	return xfrm.EncodePolicy(xp)
}

// dumpPolicies gives part all policies.
func (s *Server) dumpPolicies(ctx context.Context, _ []byte, part dumpPart) error {
	for p, err := range s.db.Policies(ctx) {
		if err != nil {
			return err
		}
		xp, err := xfrm.PolicyFromEngine(&p)
		if err != nil {
			return err
		}
		if err := part(xfrm.MsgNewPolicy, func(b []byte) ([]byte, error) { return xfrm.AppendPolicy(b, xp) }); err != nil {
			return err
		}
	}
	return nil
}

// flushPolicies takes out all policies. As in the kernel, a flush that finds nothing is no
// error and no event.
func (s *Server) flushPolicies(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	t, err := xfrm.DecodeFlushPolicies(m.Data)
	if err != nil {
		return nil, err
	}
	if t != xfrm.PolicyMain {
		return nil, fmt.Errorf("policy type %d: only main: %w", t, ipsec.ErrUnsupported)
	}
	n, err := census(ctx, s.db)
	if err != nil || len(n.Policies) == 0 {
		return nil, err
	}
	if err := s.db.FlushPolicies(ctx); err != nil {
		return nil, err
	}
	s.log.Debug("policies flushed")
	data, err := xfrm.EncodeFlushPolicies(t)
	if err != nil {
		return nil, err
	}
	s.notify(xfrm.GroupPolicy, reply(m, netlink.HeaderType(xfrm.MsgFlushPolicy), 0, data))
	return nil, nil
}

func (s *Server) spdInfo(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	n, err := census(ctx, s.db)
	if err != nil {
		return nil, err
	}
	of := func(d ipsec.Direction) uint32 { return uint32(n.Policies[d]) }
	data, err := xfrm.EncodeSPDInfo(xfrm.SPDInfo{In: of(ipsec.Inbound), Out: of(ipsec.Outbound), Fwd: of(ipsec.Forward)})
	if err != nil {
		return nil, err
	}
	return []netlink.Message{reply(m, netlink.HeaderType(xfrm.MsgNewSPDInfo), 0, data)}, nil
}

// notifyPolicy tells group POLICY what m did to a policy.
func (s *Server) notifyPolicy(m netlink.Message, p *ipsec.Policy) {
	xp, err := xfrm.PolicyFromEngine(p)
	if err == nil {
		encode := xfrm.EncodePolicy
		if xfrm.MsgType(m.Header.Type) == xfrm.MsgDelPolicy {
			encode = xfrm.EncodePolicyDeleted
		}
		var data []byte
		if data, err = encode(xp); err == nil {
			s.notify(xfrm.GroupPolicy, reply(m, m.Header.Type, 0, data))
			return
		}
	}
	s.log.Error("policy cannot be announced", "policy", p.ID().String(), "err", err)
}
