package deploy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"espalier/tunnel"
)

// Due tells why the SAs of a pair are to be replaced: their time has come, they have used their share of
// sequence numbers, or some have gone. "" is not yet. hosts are those of the plan the pair is in.
func Due(hosts []Host, p *tunnel.Pair) string {
	for i := range p.Ends {
		e := &p.Ends[i]
		if !e.Local.IsValid() || hosts[e.Host].Facts == nil {
			continue
		}
		if why := dueOn(hosts[e.Host].Facts, e, cmp.Or(e.Former, p.Tunnel)); why != "" {
			return hosts[e.Host].Name + ": " + why
		}
	}
	return ""
}

func dueOn(f *tunnel.Facts, e *tunnel.End, name string) string {
	i := slices.IndexFunc(f.Owned, func(o tunnel.Owned) bool { return o.Tunnel == name && o.Local == e.Local && o.Remote == e.Remote })
	if i < 0 {
		return "the tunnel is not set up here"
	}
	o := &f.Owned[i]
	if o.Undecided {
		return "it is not known what became of the last change elsewhere"
	}
	if o.Rotate.Every > 0 && o.Age >= o.Rotate.Every {
		return fmt.Sprintf("its SAs are there for %s", o.Age.Round(time.Second))
	}
	live := liveSAs(f, o.Engine)
	for _, id := range slices.Concat(o.Outbound, o.Inbound) {
		sa := live[id.SAID.String()+id.Mark.String()]
		if sa == nil {
			return fmt.Sprintf("SA %s has gone", id.SPI)
		}
		last := float64(1<<32 - 1)
		if sa.ESN {
			last = 1<<64 - 1
		}
		if used := float64(sa.Sent) / last; o.Rotate.Share > 0 && used >= o.Rotate.Share {
			return fmt.Sprintf("SA %s has used %.0f%% of its sequence numbers", id.SPI, 100*used)
		}
	}
	return ""
}

func liveSAs(f *tunnel.Facts, engine string) map[string]*tunnel.LiveSA {
	live := map[string]*tunnel.LiveSA{}
	for i := range f.Engines {
		if f.Engines[i].Name != engine {
			continue
		}
		for j := range f.Engines[i].SAs {
			sa := &f.Engines[i].SAs[j]
			live[sa.SAID.SAID.String()+sa.Mark.String()] = sa
		}
	}
	return live
}
