package probe

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// topologyLayer looks for what makes an offload fail, or ESP vanish, around a device that could.
func topologyLayer(s *survey, name string) Layer {
	const layer = "topology"
	d, err := s.look(name)
	if err != nil {
		return absent(layer, name, err)
	}
	l := Layer{Name: layer, Checks: []Check{s.kindCheck(d)}, Summary: topologySummary(d)}
	if c, ok := s.portCheck(d); ok {
		l.Checks = append(l.Checks, c)
	}
	l.Checks = append(l.Checks, s.mtuCheck(d))
	if c, ok := s.queueCheck(d); ok && s.couldOffload(name) {
		l.Checks = append(l.Checks, c)
	}
	l.Checks = append(l.Checks, s.wayChecks(d)...)
	return l
}

// wayChecks ask for what ESP meets on a device, whoever encrypts it.
func (s *survey) wayChecks(d *device) []Check {
	return append(s.sysctlChecks(d), s.firewallChecks(d)...)
}

// wayLayer is the topology of a device by which ESP leaves a host that has none to offload it to.
func wayLayer(s *survey, name string) Layer {
	layer := "topology of " + name
	d, err := s.look(name)
	if err != nil {
		return absent(layer, name, err)
	}
	return Layer{Name: layer, Checks: append([]Check{s.mtuCheck(d)}, s.wayChecks(d)...), Summary: topologySummary(d)}
}

func topologySummary(d *device) string {
	text := fmt.Sprintf("MTU %d: ESP carries %d bytes, in a tunnel %d", d.MTU, room(d.MTU, ipv4Header, false, false), room(d.MTU, ipv4Header, true, false))
	if d.Kind != "" {
		text = kindEvidence(d) + ", " + text
	}
	return text
}

// kindCheck: offload takes a device whose driver has it, and through which the packets leave.
func (s *survey) kindCheck(d *device) Check {
	c := Check{
		ID: "topology.kind", Title: "device of hardware", Weight: Required,
		Evidence: []Evidence{{"ip -d link show " + d.Name, kindEvidence(d)}},
	}
	switch {
	case isRepresentor(d):
		c.Answer, c.Why, c.Fix = No, d.Name+" is a representor of the e-switch's: ESP is not offloaded on it", representorFix
	case d.Loopback:
		c.Answer, c.Why, c.Fix = No, "the loopback device: nothing leaves the host", otherDevice
	case d.Kind == "bond" && d.BondMode == "active-backup":
		c.Answer, c.Why = Yes, "bond in mode active-backup, its ports "+linkNames(s.ports(d.Index))
	case d.Kind == "bond":
		c.Answer = No
		c.Why, c.Fix = s.bondProblem(&d.Link)
	case d.Kind == "" || d.Kind == "netdevsim":
		c.Answer, c.Why = Yes, s.hardwareName(d)
	default:
		c.Answer = No
		c.Why, c.Fix = s.kindProblem(d)
		// A kernel to come may have taught it.
		if features, err := s.network.Features(d.Name); err == nil && features[espOffload].On {
			c.Answer, c.Why, c.Fix = Yes, s.kindOf(d)+" that says it offloads ESP", ""
		}
	}
	return c
}

func kindEvidence(d *device) string {
	parts := []string{"no kind"}
	if d.Kind != "" {
		parts[0] = d.Kind
	}
	if d.BondMode != "" {
		parts = append(parts, "mode "+d.BondMode)
	}
	if d.Kind == "vlan" {
		parts = append(parts, "id "+strconv.Itoa(int(d.VLAN)))
	}
	if d.PhysPort != "" {
		parts = append(parts, "portname "+d.PhysPort)
	}
	if d.SwitchID != "" {
		parts = append(parts, "switchid "+d.SwitchID)
	}
	return strings.Join(parts, " ")
}

func (s *survey) hardwareName(d *device) string {
	switch f := &d.function; {
	case f.virtual && f.pf != "":
		return fmt.Sprintf("VF %d of %s", f.vf, f.pf)
	case f.virtual:
		return "virtual function at " + f.address
	case f.sub:
		return "sub-function of " + f.address
	case f.address != "" && d.SwitchID != "":
		return "uplink " + d.PhysPort + " at " + f.address
	case f.address != "":
		return "at " + f.address
	case d.driver.Bus != "":
		return "at " + d.driver.Bus
	}
	return "no device on a bus is named, and no kind"
}

// representorPort are the names of switchdev ports that stand for a function of the card's or of
// another controller's; the uplinks are called p0, p1, and p0s0.
var representorPort = regexp.MustCompile(`^(c\d+)?pf\d+(vf\d+|sf\d+|hpf)?$`)

// isRepresentor: SwitchID and the name of the port tell, for drivers other than mlx5 as well.
func isRepresentor(d *device) bool {
	return d.SwitchID != "" && representorPort.MatchString(d.PhysPort) || d.driver.Name == "mlx5e_rep"
}

// bondProblem: the bonding driver hands SAs to its active port, so it must have but one.
func (s *survey) bondProblem(d *Link) (why, fix string) {
	why = fmt.Sprintf("%s is in mode %s, and bonds offload ESP in mode active-backup only", d.Name, d.BondMode)
	how := fmt.Sprintf("ip link set %s down; ip link set %s type bond mode active-backup (without ports), and where the bond is set up", d.Name, d.Name)
	switch dist := s.distribution(); {
	case dist.is("ubuntu"):
		how = fmt.Sprintf("in /etc/netplan: bonds, %s, parameters, mode: active-backup; then netplan apply", d.Name)
	case dist.is("rhel", "fedora"):
		how = fmt.Sprintf("nmcli connection modify %s bond.options mode=active-backup,miimon=100; nmcli connection up %s", d.Name, d.Name)
	case dist.is("debian"):
		how = fmt.Sprintf("in /etc/network/interfaces: bond-mode active-backup for %s; then ifdown %s; ifup %s", d.Name, d.Name, d.Name)
	case dist.is("suse", "sles", "opensuse"):
		how = fmt.Sprintf("in /etc/sysconfig/network/ifcfg-%s: BONDING_MODULE_OPTS='mode=active-backup miimon=100'; then wicked ifreload %s", d.Name, d.Name)
	}
	return why, "Two links at once and offload exclude each other. To have the offload: " + how + ". To have both links: an SA for each, on the ports, without a bond."
}

// kindOf is what a device that is no hardware is: "a VLAN of p4p1".
func (s *survey) kindOf(d *device) string {
	switch d.Kind {
	case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap":
		if lower := s.link(d.Lower); lower != nil && !d.Elsewhere {
			return "a " + kindName(d.Kind) + " of " + lower.Name
		}
		return "a " + kindName(d.Kind)
	case "bond", "bridge", "team", "openvswitch":
		return "a " + kindName(d.Kind)
	case "xfrm", "vti", "vti6":
		return "an IPsec interface"
	case "veth":
		return "a virtual cable (veth)"
	}
	return "a device of kind " + d.Kind
}

// kindProblem says why a device that is no hardware does not offload, and what to use instead.
func (s *survey) kindProblem(d *device) (why, fix string) {
	why = s.kindOf(d) + ": the kernel takes its SAs, and encrypts on the CPU"
	switch d.Kind {
	case "vlan":
		under := "the device below"
		if lower := s.link(d.Lower); lower != nil && !d.Elsewhere {
			under = lower.Name
		}
		return why, fmt.Sprintf("Take the SAs' packets through %s without a tag (native VLAN %d at the switch), or let a VF carry the tag: ip link set %s vf 0 vlan %d.", under, d.VLAN, under, d.VLAN)
	case "bridge", "openvswitch":
		return why, bridgeFix(linkNames(s.ports(d.Index)), d.Name)
	case "macvlan", "macvtap", "ipvlan", "ipvtap":
		return why, "Give the container a VF or SF of the NIC instead, which may offload (devlink port function set PORT ipsec_crypto enable)."
	case "team":
		return why, "A bond in mode active-backup offloads: team2bond converts one into the other."
	case "veth":
		return why, "Give the container a VF or SF of the NIC instead, or encrypt on the host, where the NIC is."
	case "xfrm", "vti", "vti6":
		return "an IPsec interface: its packets are offloaded to the NIC that they leave by", "Name the NIC: espalier doctor NIC, and offload … dev NIC."
	}
	return why, otherDevice
}

const otherDevice = "SAs are offloaded to the NIC that their packets leave by: espalier doctor without a name looks for those."

func bridgeFix(ports, bridge string) string {
	if ports == "" {
		ports = "the NIC"
	}
	return fmt.Sprintf("Take the SAs' addresses from %s to a device that is in no bridge: %s itself, taken out of it, or another port, VF or SF of the card.", bridge, ports)
}

// portCheck asks of a bond's or bridge's port only: its packets come and go by its master.
func (s *survey) portCheck(d *device) (Check, bool) {
	if d.Master == 0 {
		return Check{}, false
	}
	c := Check{ID: "topology.port", Title: "not a port of another device", Weight: Required, Answer: No}
	master := s.link(d.Master)
	if master == nil {
		c.Answer, c.Why = Unknown, fmt.Sprintf("it is a port of device %d, which is not shown here", d.Master)
		c.Weight = Warns
		c.Evidence = []Evidence{{"ip link show " + d.Name, fmt.Sprintf("master %d", d.Master)}}
		return c, true
	}
	c.Evidence = []Evidence{{"ip link show " + d.Name, "master " + master.Name}}
	switch master.Kind {
	case "bond":
		if master.BondMode != "active-backup" {
			c.Why, c.Fix = s.bondProblem(master)
			c.Why = d.Name + " is a port of a bond: " + c.Why
			break
		}
		// The card can, and its bond may: so this is no reason to call it not ready.
		c.Weight = Warns
		c.Why = fmt.Sprintf("%s is a port of bond %s: packets are routed through the bond, and SAs belong to it", d.Name, master.Name)
		c.Fix = fmt.Sprintf("Name the bond where the SAs are offloaded: offload … dev %s. espalier doctor %s looks at it.", master.Name, master.Name)
	case "vrf":
		c.Answer, c.Why, c.Weight = Yes, "in VRF "+master.Name, Informs
	case "bridge", "openvswitch":
		what := "bridge " + master.Name
		if master.Kind == "openvswitch" {
			what = "Open vSwitch, by " + master.Name
		}
		c.Why = fmt.Sprintf("%s is a port of %s: packets are routed through the bridge, which does not offload ESP", d.Name, what)
		c.Fix = bridgeFix(d.Name, master.Name)
	default:
		c.Why = fmt.Sprintf("%s is a port of %s %s: packets are routed through that, which does not offload ESP", d.Name, kindName(master.Kind), master.Name)
		c.Fix = bridgeFix(d.Name, master.Name)
	}
	return c, true
}

// couldOffload: what tunes an offload is not asked of a device that has none for good.
func (s *survey) couldOffload(name string) bool {
	features, err := s.network.Features(name)
	return err != nil || features[espOffload].On || !features[espOffload].Fixed
}

// queueCheck: a NIC spreads ESP over its queues (RSS) by addresses and SPI, if it is set up so. It is not asked of
// devices without queues of their own.
func (s *survey) queueCheck(d *device) (Check, bool) {
	c := Check{ID: "topology.queues", Title: "ESP on several queues", Weight: Informs, Evidence: []Evidence{{"ethtool -l " + d.Name, ""}}}
	q, err := s.network.Queues(d.Name)
	queues := q.Receive + q.Combined
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return c, false
	case err != nil:
		c.Why = "not known: " + unread(err)
		return c, true
	case queues > 1 && q.Hash == "-":
		c.Answer, c.Why = No, fmt.Sprintf("ESP is spread by nothing: of %d queues one receives all", queues)
		c.Fix = "ethtool -N " + d.Name + " rx-flow-hash esp4 sd"
	case queues > 1:
		c.Answer, c.Why = Yes, fmt.Sprintf("%d queues; each SA has one of them, so take several SAs for more than one CPU", queues)
	case q.MaxCombined > 1:
		c.Answer, c.Why = No, fmt.Sprintf("one queue of %d is in use: one CPU receives all", q.MaxCombined)
		c.Fix = fmt.Sprintf("ethtool -L %s combined %d", d.Name, q.MaxCombined)
	case q.MaxReceive > 1:
		c.Answer, c.Why = No, fmt.Sprintf("one queue of %d is in use: one CPU receives all", q.MaxReceive)
		c.Fix = fmt.Sprintf("ethtool -L %s rx %d", d.Name, q.MaxReceive)
	default:
		c.Answer, c.Why = No, "one queue: one CPU receives all"
	}
	c.Evidence[0].Value = fmt.Sprintf("RX %d of %d, combined %d of %d", q.Receive, q.MaxReceive, q.Combined, q.MaxCombined)
	if q.Hash != "" {
		c.Evidence = append(c.Evidence, Evidence{"ethtool -n " + d.Name + " rx-flow-hash esp4", q.Hash})
	}
	return c, true
}
