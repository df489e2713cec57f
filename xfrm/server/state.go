package server

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// handler carries one request out. Errors wrap the sentinels of package ipsec.
type handler func(s *Server, ctx context.Context, m netlink.Message) (replies []netlink.Message, err error)

// handlerOf is what carries out requests of a type; nil for those that are not understood.
// Dumps go another way.
func handlerOf(typ xfrm.MsgType) handler {
	switch typ {
	case xfrm.MsgNewSA:
		return (*Server).addState
	case xfrm.MsgUpdSA:
		return (*Server).updateState
	case xfrm.MsgDelSA:
		return (*Server).deleteState
	case xfrm.MsgGetSA:
		return (*Server).getState
	case xfrm.MsgFlushSA:
		return (*Server).flushStates
	case xfrm.MsgNewPolicy:
		return (*Server).addPolicy
	case xfrm.MsgUpdPolicy:
		return (*Server).updatePolicy
	case xfrm.MsgDelPolicy:
		return (*Server).deletePolicy
	case xfrm.MsgGetPolicy:
		return (*Server).getPolicy
	case xfrm.MsgFlushPolicy:
		return (*Server).flushPolicies
	case xfrm.MsgGetSADInfo:
		return (*Server).sadInfo
	case xfrm.MsgGetSPDInfo:
		return (*Server).spdInfo
	case xfrm.MsgAllocSPI:
		return (*Server).allocateSPI
	case xfrm.MsgNewAE:
		return (*Server).setCheckpoint
	case xfrm.MsgGetAE:
		return (*Server).getProgress
	case xfrm.MsgSetDefault:
		return (*Server).setDefaults
	case xfrm.MsgGetDefault:
		return (*Server).getDefaults
	case xfrm.MsgGetDrops:
		return (*Server).drops
	}
	return nil
}

// addState hands the key over: from here on it is the database's, which wipes it.
func (s *Server) addState(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	sa, err := decodeSA(m.Data)
	if err != nil {
		return nil, err
	}
	if sa.Key.Len() == 0 {
		return nil, fmt.Errorf("the key is all zero: %w", ipsec.ErrInvalid)
	}
	if err := s.db.AddSA(ctx, sa); err != nil {
		return nil, err
	}
	s.log.Debug("SA added", "sa", sa.ID().String())
	s.notifyInstalled(ctx, m, &sa)
	return nil, nil
}

func (s *Server) updateState(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	sa, err := decodeSA(m.Data)
	if err != nil {
		return nil, err
	}
	if err := s.db.UpdateSA(ctx, sa); err != nil {
		return nil, err
	}
	s.log.Debug("SA updated", "sa", sa.ID().String())
	s.notifyInstalled(ctx, m, &sa)
	return nil, nil
}

func decodeSA(b []byte) (ipsec.SA, error) {
	state, err := xfrm.DecodeState(b)
	if err != nil {
		return ipsec.SA{}, err
	}
	return toSA(state)
}

// toSA converts a state, and wipes the key of one that cannot be.
func toSA(state *xfrm.State) (ipsec.SA, error) {
	sa, err := state.RequestedSA()
	if err != nil && state.AEAD != nil {
		state.AEAD.Key.Wipe()
	}
	return sa, err
}

func (s *Server) deleteState(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	sa, err := s.lookupSA(ctx, m.Data)
	if err != nil {
		return nil, err
	}
	if err := s.db.DeleteSA(ctx, sa.ID()); err != nil {
		return nil, err
	}
	s.log.Debug("SA deleted", "sa", sa.ID().String())
	s.notifyState(m, xfrm.MsgDelSA, &sa)
	return nil, nil
}

func (s *Server) getState(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	sa, err := s.lookupSA(ctx, m.Data)
	if err != nil {
		return nil, err
	}
	return stateReply(m, &sa)
}

// stateReply answers a request with one SA.
func stateReply(m netlink.Message, sa *ipsec.SA) ([]netlink.Message, error) {
	state, err := stateWithoutKey(sa)
	if err != nil {
		return nil, err
	}
	data, err := xfrm.EncodeState(state)
	if err != nil {
		return nil, err
	}
	return []netlink.Message{reply(m, netlink.HeaderType(xfrm.MsgNewSA), 0, data)}, nil
}

// lookupSA finds the SA of a GETSA or DELSA. A mark does not matter: the database's SAs
// have none, and such match any.
func (s *Server) lookupSA(ctx context.Context, b []byte) (ipsec.SA, error) {
	id, err := xfrm.DecodeStateID(b)
	if err != nil {
		return ipsec.SA{}, err
	}
	return s.findSA(ctx, &id)
}

func (s *Server) findSA(ctx context.Context, id *xfrm.StateID) (ipsec.SA, error) {
	if id.Proto != unix.IPPROTO_ESP {
		return ipsec.SA{}, fmt.Errorf("IP protocol %d: %w", id.Proto, ipsec.ErrNotExist)
	}
	return s.db.LookupSA(ctx, ipsec.SAID{Dst: id.Dst, SPI: id.SPI})
}

// stateWithoutKey is an SA as it is read back: with zeros for a key, and with replay
// counters, which the kernel always gives.
func stateWithoutKey(sa *ipsec.SA) (*xfrm.State, error) {
	state, err := xfrm.StateFromEngine(sa)
	if err != nil {
		return nil, err
	}
	if state.AEAD != nil {
		state.AEAD.Key = ipsec.Key{} // KeyBits still tells its length
	}
	state.ReplayThresh, state.TimerThresh = nil, nil // GETAE tells them
	if state.Replay == nil {
		state.Replay = &xfrm.ReplayState{}
	}
	return state, nil
}

// dumpStates gives part the states that the filter of a dump selects.
func (s *Server) dumpStates(ctx context.Context, payload []byte, part dumpPart) error {
	filter, err := xfrm.DecodeStateFilter(payload)
	if err != nil {
		return err
	}
	for sa, err := range s.db.SAs(ctx) {
		if err != nil {
			return err
		}
		state, err := stateWithoutKey(&sa)
		if err != nil {
			return err
		}
		if !filter.Match(state) {
			continue
		}
		if err := part(xfrm.MsgNewSA, func(b []byte) ([]byte, error) { return xfrm.AppendState(b, state) }); err != nil {
			return err
		}
	}
	return nil
}

// flushStates takes out all SAs. As in the kernel, a flush that finds nothing is no error
// and no event.
func (s *Server) flushStates(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	proto, err := xfrm.DecodeFlushStates(m.Data)
	if err != nil {
		return nil, err
	}
	all := xfrm.StateFilter{Proto: proto}
	n, err := census(ctx, s.db)
	if err != nil || n.SAs == 0 || !all.MatchProto(unix.IPPROTO_ESP) {
		return nil, err
	}
	if err := s.db.FlushSAs(ctx); err != nil {
		return nil, err
	}
	s.log.Debug("SAs flushed")
	s.notify(xfrm.GroupSA, reply(m, netlink.HeaderType(xfrm.MsgFlushSA), 0, xfrm.EncodeFlushStates(proto)))
	return nil, nil
}

func (s *Server) sadInfo(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	n, err := census(ctx, s.db)
	if err != nil {
		return nil, err
	}
	data, err := xfrm.EncodeSADInfo(xfrm.SADInfo{Count: uint32(n.SAs)})
	if err != nil {
		return nil, err
	}
	return []netlink.Message{reply(m, netlink.HeaderType(xfrm.MsgNewSADInfo), 0, data)}, nil
}

// notifyInstalled tells group SA what m has installed, as the database has it now.
func (s *Server) notifyInstalled(ctx context.Context, m netlink.Message, sa *ipsec.SA) {
	if installed, err := s.db.LookupSA(ctx, sa.ID()); err == nil {
		sa = &installed
	}
	s.notifyState(m, xfrm.MsgType(m.Header.Type), sa)
}

// notifyState tells group SA what happened to an SA.
func (s *Server) notifyState(m netlink.Message, typ xfrm.MsgType, sa *ipsec.SA) {
	state, err := stateWithoutKey(sa)
	if err != nil {
		s.log.Error("SA cannot be announced", "sa", sa.ID().String(), "err", err)
		return
	}
	encode := xfrm.EncodeState
	if typ == xfrm.MsgDelSA {
		encode = xfrm.EncodeStateDeleted
	}
	data, err := encode(state)
	if err != nil {
		s.log.Error("SA cannot be announced", "sa", sa.ID().String(), "err", err)
		return
	}
	s.notify(xfrm.GroupSA, reply(m, netlink.HeaderType(typ), 0, data))
}
