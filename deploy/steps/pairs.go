package steps

import (
	"espalier/ipsec"
	"espalier/tunnel"
)

// PairEnds are a host's sides of the pairs of a plan that change, in the order of the plan. SAs have
// been filled.
func PairEnds(plan *tunnel.Plan, host int) ([]PairEnd, error) {
	var ends []PairEnd
	for e, p := range plan.EndsOf(host) {
		end := PairEnd{
			Tunnel: p.Tunnel, Former: e.Former, Action: p.Action, Engine: e.Engine, Device: e.Device, Local: e.Local, Remote: e.Remote,
			Outbound: ids(e.Outbound), Inbound: ids(e.Inbound), Old: e.Old, Rotate: p.Rotate, Adopt: p.Adopt, Detours: e.Detours,
		}
		var err error
		if end.Policies, err = encodePolicies(e.Policies); err != nil {
			return nil, err
		}
		if end.Gone, err = encodePolicies(e.Gone); err != nil {
			return nil, err
		}
		ends = append(ends, end)
	}
	return ends, nil
}

// SAs are the payloads of NEWSA for one direction on a host, in the order of the plan. They hold
// keys: the caller wipes them.
func SAs(plan *tunnel.Plan, host int, direction ipsec.Direction) ([][]byte, error) {
	var payloads [][]byte
	for e := range plan.EndsOf(host) {
		sas := e.Outbound
		if direction == ipsec.Inbound {
			sas = e.Inbound
		}
		for i := range sas {
			b, err := EncodeSA(&sas[i])
			if err != nil {
				for _, p := range payloads {
					clear(p)
				}
				return nil, err
			}
			payloads = append(payloads, b)
		}
	}
	return payloads, nil
}

func ids(sas []tunnel.SA) []tunnel.SAID {
	var ids []tunnel.SAID
	for i := range sas {
		ids = append(ids, tunnel.SAID{SAID: sas[i].ID(), Src: sas[i].Src, Mark: sas[i].Mark})
	}
	return ids
}

func encodePolicies(policies []tunnel.Policy) (payloads [][]byte, err error) {
	for i := range policies {
		b, err := EncodePolicy(&policies[i])
		if err != nil {
			return nil, err
		}
		payloads = append(payloads, b)
	}
	return payloads, nil
}
