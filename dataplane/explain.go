package dataplane

import "espalier/ipsec"

// OutboundSA tells by which SA a packet of flow f would leave now, found as the packet path finds
// it: if there is none for all queues, of the first queue that has one. It reports false if none is
// needed, or none is there.
func (d *Device) OutboundSA(f *ipsec.Flow) (ipsec.SAID, bool) {
	policy := d.spd.lookup(ipsec.Outbound, f, d.keeper.now.Load())
	if policy == nil || policy.action != ipsec.Protect {
		return ipsec.SAID{}, false
	}
	for queue := range len(d.senders) + 1 {
		if a, _ := d.sad.forPolicy(policy, f, uint16(queue)); a != nil {
			return a.id, true
		}
	}
	return ipsec.SAID{}, false
}
