package xfrm

import (
	"strconv"
	"strings"
)

// nameTable pairs the words of `ip xfrm` with the numbers of linux/xfrm.h. The first of
// two names for a number is the one printed.
type nameTable []struct {
	name  string
	value uint32
}

func (t nameTable) value(name string) (uint32, bool) {
	for _, e := range t {
		if e.name == name {
			return e.value, true
		}
	}
	return 0, false
}

func (t nameTable) name(value uint32) (string, bool) {
	for _, e := range t {
		if e.value == value {
			return e.name, true
		}
	}
	return "", false
}

// nameOrNumber is the name of value, or its decimal digits.
func (t nameTable) nameOrNumber(value uint32) string {
	if n, ok := t.name(value); ok {
		return n
	}
	return strconv.FormatUint(uint64(value), 10)
}

func (t nameTable) names() []string {
	names := make([]string, len(t))
	for i, e := range t {
		names[i] = e.name
	}
	return names
}

var protoNames = nameTable{
	{"esp", 50}, {"ah", 51}, {"comp", 108}, {"route2", 43}, {"hao", 60}, {"ipsec-any", 255},
}

var modeNames = nameTable{
	{"transport", uint32(ModeTransport)}, {"tunnel", uint32(ModeTunnel)}, {"beet", uint32(ModeBeet)},
	{"ro", uint32(ModeRouteOptimization)}, {"in_trigger", uint32(ModeInTrigger)},
}

var stateFlagNames = nameTable{
	{"noecn", uint32(FlagNoECN)}, {"decap-dscp", uint32(FlagDecapDSCP)},
	{"nopmtudisc", uint32(FlagNoPMTUDisc)}, {"wildrecv", uint32(FlagWildRecv)},
	{"icmp", uint32(FlagICMP)}, {"af-unspec", uint32(FlagAFUnspec)},
	{"align4", uint32(FlagAlign4)}, {"esn", uint32(FlagESN)},
}

// XFRM_SA_XFLAG_*.
var extraFlagNames = nameTable{{"dont-encap-dscp", 1}, {"oseq-may-wrap", 2}}

var encapNames = nameTable{
	{"espinudp", uint32(EncapESPInUDP)}, {"espinudp-nonike", uint32(EncapESPInUDPNonIKE)},
	{"espintcp", uint32(EncapESPInTCP)},
}

var stateDirNames = nameTable{{"in", uint32(StateDirIn)}, {"out", uint32(StateDirOut)}}

var policyDirNames = nameTable{
	{"in", uint32(PolicyIn)}, {"out", uint32(PolicyOut)}, {"fwd", uint32(PolicyFwd)},
}

var policyActionNames = nameTable{{"allow", uint32(PolicyAllow)}, {"block", uint32(PolicyBlock)}}

// defaultActionNames gives the value of DefaultAction; ip takes allow, too, and prints accept.
var defaultActionNames = nameTable{{"accept", uint32(DefaultAccept)}, {"block", uint32(DefaultBlock)}, {"allow", uint32(DefaultAccept)}}

var policyTypeNames = nameTable{{"main", uint32(PolicyMain)}, {"sub", uint32(PolicySub)}}

var policyFlagNames = nameTable{{"localok", uint32(PolicyLocalOK)}, {"icmp", uint32(PolicyICMP)}}

var shareNames = nameTable{
	{"any", uint32(ShareAny)}, {"session", uint32(ShareSession)}, {"user", uint32(ShareUser)}, {"unique", uint32(ShareUnique)},
}

// levelNames gives the value of Tmpl.Optional.
var levelNames = nameTable{{"required", 0}, {"use", 1}}

// ipProtocolNames are the IANA protocol numbers under the names /etc/protocols usually
// gives them. The file itself is not read: a command must mean the same on every host.
var ipProtocolNames = nameTable{
	{"ip", 0}, {"icmp", 1}, {"igmp", 2}, {"ggp", 3}, {"ipencap", 4}, {"st", 5}, {"tcp", 6},
	{"egp", 8}, {"igp", 9}, {"pup", 12}, {"udp", 17}, {"hmp", 20}, {"xns-idp", 22},
	{"rdp", 27}, {"iso-tp4", 29}, {"dccp", 33}, {"xtp", 36}, {"ddp", 37}, {"idpr-cmtp", 38},
	{"ipv6", 41}, {"ipv6-route", 43}, {"ipv6-frag", 44}, {"idrp", 45}, {"rsvp", 46},
	{"gre", 47}, {"esp", 50}, {"ah", 51}, {"skip", 57}, {"ipv6-icmp", 58}, {"ipv6-nonxt", 59},
	{"ipv6-opts", 60}, {"rspf", 73}, {"vmtp", 81}, {"eigrp", 88}, {"ospf", 89}, {"ax.25", 93},
	{"ipip", 94}, {"etherip", 97}, {"encap", 98}, {"pim", 103}, {"ipcomp", 108}, {"vrrp", 112},
	{"l2tp", 115}, {"isis", 124}, {"sctp", 132}, {"fc", 133}, {"mobility-header", 135},
	{"udplite", 136}, {"mpls-in-ip", 137}, {"manet", 138}, {"hip", 139}, {"shim6", 140},
	{"wesp", 141}, {"rohc", 142}, {"ethernet", 143},
}

// ProtocolName is the name of an IPsec protocol (esp, ah, comp …), or its number.
func ProtocolName(proto uint8) string { return protoNames.nameOrNumber(uint32(proto)) }

// IPProtocolName is the name of the protocol of a selector (tcp, udp …), or its number.
func IPProtocolName(proto uint8) string { return ipProtocolNames.nameOrNumber(uint32(proto)) }

func (m Mode) String() string          { return modeNames.nameOrNumber(uint32(m)) }
func (d StateDir) String() string      { return stateDirNames.nameOrNumber(uint32(d)) }
func (d PolicyDir) String() string     { return policyDirNames.nameOrNumber(uint32(d)) }
func (a PolicyAction) String() string  { return policyActionNames.nameOrNumber(uint32(a)) }
func (a DefaultAction) String() string { return defaultActionNames.nameOrNumber(uint32(a)) }
func (t PolicyType) String() string    { return policyTypeNames.nameOrNumber(uint32(t)) }
func (s Share) String() string         { return shareNames.nameOrNumber(uint32(s)) }
func (t EncapType) String() string     { return encapNames.nameOrNumber(uint32(t)) }

// String gives the names of the flags, and what has no name in hexadecimal, separated by
// spaces, as `flag` takes and prints them.
func (f StateFlag) String() string  { return flagWords(uint32(f), stateFlagNames) }
func (f PolicyFlag) String() string { return flagWords(uint32(f), policyFlagNames) }

func flagWords(flags uint32, names nameTable) string {
	var words []string
	for _, e := range names {
		if flags&e.value != 0 {
			words = append(words, e.name)
			flags &^= e.value
		}
	}
	if flags != 0 {
		words = append(words, strconv.FormatUint(uint64(flags), 16))
	}
	return strings.Join(words, " ")
}
