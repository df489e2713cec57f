package dataplane

import "espalier/ipsec"

// OutboundSA tells by which SA a packet of flow f would leave now, found as the packet path finds
// it. It reports false if none is needed, or none is there.
func (d *Device) OutboundSA(f *ipsec.Flow) (ipsec.SAID, bool) {
	policy := d.spd.lookup(ipsec.Outbound, f, d.keeper.now.Load())
	if policy == nil || policy.action != ipsec.Protect {
		return ipsec.SAID{}, false
	}
	a, _ := d.sad.forPolicy(policy, f)
	if a == nil {
		return ipsec.SAID{}, false
	}
	return a.id, true
}
