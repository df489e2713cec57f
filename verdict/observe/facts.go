package observe

import (
	"context"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/verdict"
	"espalier/xfrm"
)

const (
	iffUp      = unix.IFF_UP
	iffLowerUp = unix.IFF_LOWER_UP
)

func isUnsupported(err error) bool { return errors.Is(err, unix.EOPNOTSUPP) }

// facts are what is asked once an observation.
type facts struct {
	features   map[int][2]verdict.Feature // esp-hw-offload of the devices, at both ends
	routes     map[destination][2]int     // ifindex that packets to it leave by, at both ends
	via        map[int]port               // devices that are in routes only
	policies   []*xfrm.Policy
	spd        xfrm.SPDInfo        // how many policies there were when they were read
	local      map[netip.Addr]bool // this host's addresses; nil: not known
	defaults   *xfrm.Defaults      // what becomes of packets without a policy; nil: not known
	departures *departures
	relations  *relations // of the SAs at the beginning; nil: not known
	net        uint64     // as an espCount's
}

// destination is what a route is looked up by.
type destination struct {
	src, dst netip.Addr
	mark     uint32
}

func destinationOf(s *xfrm.State) destination {
	d := destination{src: s.Src, dst: s.Dst}
	if s.OutputMark != nil {
		d.mark = s.OutputMark.Value & s.OutputMark.Mask
	}
	return d
}

// offloadedOut reports whether a state encrypts, on a device.
func offloadedOut(s *xfrm.State) bool {
	return s.Offload != nil && s.Offload.Flags&xfrm.OffloadInbound == 0
}

// facts asks what there is time for while the interval runs.
func (o *Observer) facts(ctx context.Context, r *reading) (*facts, error) {
	f := &facts{features: map[int][2]verdict.Feature{}, routes: map[destination][2]int{}, via: map[int]port{}}
	f.spd = o.countPolicies(ctx)
	if err := o.policies(ctx, f); err != nil {
		return nil, err
	}
	if sad, ok := o.sad.(interface {
		Defaults(context.Context) (*xfrm.Defaults, error)
	}); ok {
		f.defaults, _ = sad.Defaults(ctx) // Linux before 5.15 has none
	}
	o.addresses(f)
	f.relations = relate(r.states, f)
	for index, p := range r.ports[0] {
		f.features[index] = [2]verdict.Feature{o.feature(p.real)}
	}
	if o.userspace {
		return f, nil
	}
	for _, s := range r.states {
		d := destinationOf(s)
		if _, asked := f.routes[d]; asked || !offloadedOut(s) {
			continue
		}
		index := o.route(d)
		f.routes[d] = [2]int{index}
		if _, known := r.ports[0][index]; !known && index != 0 && f.via[index].name == "" {
			if link, err := o.links.LinkByIndex(index); err == nil {
				f.via[index] = o.identify(link)
			}
		}
	}
	return f, nil
}

// late asks what belongs to the end of the interval: the same again, as far as it may be otherwise.
func (o *Observer) late(ctx context.Context, f *facts, r *reading) error {
	for index, features := range f.features {
		features[1] = o.feature(r.ports[1][index].real)
		f.features[index] = features
	}
	for d, way := range f.routes {
		way[1] = o.route(d)
		f.routes[d] = way
	}
	if f.spd == o.countPolicies(ctx) && f.spd != (xfrm.SPDInfo{}) {
		return nil
	}
	f.relations = nil
	return o.policies(ctx, f)
}

// countPolicies is zero if the SAD does not tell.
func (o *Observer) countPolicies(ctx context.Context) (n xfrm.SPDInfo) {
	if sad, ok := o.sad.(interface {
		SPDInfo(context.Context) (xfrm.SPDInfo, error)
	}); ok {
		n, _ = sad.SPDInfo(ctx)
	}
	return n
}

func (o *Observer) policies(ctx context.Context, f *facts) error {
	f.policies = nil
	for p, err := range o.sad.Policies(ctx) {
		if err != nil {
			return err
		}
		f.policies = append(f.policies, p)
	}
	return nil
}

func (o *Observer) addresses(f *facts) {
	addresses, err := o.links.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return // directions then come from policies and counters
	}
	f.local = make(map[netip.Addr]bool, len(addresses))
	for _, a := range addresses {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			f.local[ip.Unmap()] = true
		}
	}
}

// feature is esp-hw-offload of a device.
func (o *Observer) feature(device string) verdict.Feature {
	if device == "" {
		return verdict.FeatureUnknown
	}
	all, err := o.eth.FeaturesWithState(device)
	f, known := all["esp-hw-offload"]
	switch {
	case err != nil || !known:
		return verdict.FeatureUnknown
	case f.Active:
		return verdict.FeatureOn
	}
	return verdict.FeatureOff
}

// route is the device that packets leave by, 0 if it cannot be told.
func (o *Observer) route(d destination) int {
	routes, err := o.links.RouteGetWithOptions(d.dst.AsSlice(), &netlink.RouteGetOptions{SrcAddr: d.src.AsSlice(), Mark: d.mark})
	if err != nil || len(routes) == 0 {
		return 0
	}
	if len(routes[0].MultiPath) > 0 {
		return 0 // which of them it is depends on the packet
	}
	return routes[0].LinkIndex
}
