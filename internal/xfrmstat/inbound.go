package xfrmstat

// Counters are all that Linux has had up to 6.18, in its order.
var Counters = append(append([]Counter{}, inbound...), outbound...)

var inbound = []Counter{
	{
		Name:    "XfrmInError",
		Meaning: "A packet that came in was dropped for want of something that no other counter is about, mostly memory.",
		Causes:  []string{"the host is short of memory", "the route of a decrypted packet was gone"},
		Look:    []string{"dmesg", "free, /proc/net/sockstat"},
	},
	{
		Name:    "XfrmInBufferError",
		Meaning: "A packet had no room left: more than six layers of IPsec, or a NIC that said it had decrypted it and reported an error of its own.",
		Causes:  []string{"packets wrapped in IPsec again and again, as by a policy that matches its own ESP", "an error of the NIC's while decrypting (crypto offload)"},
		Look:    []string{"espalier xfrm policy list: does a selector match the tunnel's own addresses?", "ethtool -S DEV | grep ipsec"},
	},
	{
		Name:    "XfrmInHdrError",
		Meaning: "A packet was too short for an ESP, AH or UDP encapsulation header, or the addresses and ports of one could not be read.",
		Causes:  []string{"packets cut short on the way", "something else than ESP on UDP port 4500", "an outer header damaged by a middlebox"},
		Look:    []string{"tcpdump -ni DEV 'esp or udp port 4500'", "the MTU of the path"},
	},
	{
		Name:    "XfrmInNoStates",
		Meaning: "ESP arrived with an SPI that no SA for its destination has.",
		Causes: []string{
			"the peer still sends by an SA that is deleted here: one end was rekeyed or restarted, the other was not",
			"the peer began to send by a new SA before it was installed here",
			"the SA was offloaded, and its link went down: the kernel deletes it without an event",
			"SPI or destination address differ between the two ends",
			"scanners, if the host is on the Internet",
		},
		Look: []string{"espalier xfrm state list: is there an SA with the SPI that tcpdump shows?", "espalier xfrm monitor SA", "the peer's SAs for sending"},
	},
	{
		Name:    "XfrmInStateProtoError",
		Meaning: "An SA took a packet and could not make sense of it: the integrity check failed, or the padding was wrong.",
		Causes: []string{
			"the two ends have different keys or salts for this SPI",
			"one end uses extended sequence numbers, the other does not",
			"another length of the ICV at the other end",
			"packets changed on the way: a fault, or an attack",
			"a NIC at the other end that does not encrypt although it says so",
		},
		Look: []string{"the SA's failed integrity checks: espalier status", "key, flag esn and ICV length at both ends", "espalier verify"},
	},
	{
		Name:    "XfrmInStateModeError",
		Meaning: "What was inside of a decrypted packet does not fit the SA's mode.",
		Causes:  []string{"one end in tunnel mode, the other in transport mode", "an inner packet of a family that the SA's selector rules out"},
		Look:    []string{"mode of the SA at both ends", "sel of the SA"},
	},
	{
		Name:    "XfrmInStateSeqError",
		Meaning: "The anti-replay window refused a sequence number: seen before, or too old.",
		Causes: []string{
			"packets overtake each other by more than the window: several queues, paths or CPUs, at high rates",
			"the sender was restarted with the same SA and counts from the beginning again",
			"a replayed packet: an attack, or a duplicating network",
		},
		Look: []string{"replay-window of the SA: 32 is too small for fast links", "espalier status: seen before, or too late?", "rekey instead of installing the same key again"},
	},
	{
		Name:    "XfrmInStateExpired",
		Meaning: "A packet arrived for an SA that has reached a hard limit.",
		Causes:  []string{"the peer was not rekeyed in time", "no key exchange runs that would replace the SA"},
		Look:    []string{"limits of the SA: espalier status", "log of the key exchange"},
	},
	{
		Name:    "XfrmInStateMismatch",
		Meaning: "A packet belongs to an SA, but did not come the way the SA says: in UDP or not, or from within a selector it has not.",
		Causes:  []string{"encap at one end only, as behind a NAT that only one end has noticed", "the SA's own selector (sel) does not cover the inner packet"},
		Look:    []string{"encap of the SA at both ends", "sel of the SA"},
	},
	{
		Name:    "XfrmInStateInvalid",
		Meaning: "A packet arrived for an SA that is being deleted.",
		Causes:  []string{"the moment of a rekey: a few are normal"},
		Look:    []string{"whether it goes on rising"},
	},
	{
		Name:    "XfrmInTmplMismatch",
		Meaning: "An in or fwd policy covers the packet, and the packet did not come by an SA that the policy's template asks for.",
		Causes: []string{
			"cleartext arrived for traffic that has to be encrypted: the peer does not encrypt (it has no out policy or SA), or somebody forges",
			"the template's reqid is not the SA's: the two directions are easily swapped",
			"mode or tunnel addresses of template and SA differ",
			"ESP in ESP, of which one layer has no template",
		},
		Look: []string{"espalier status: it names policies and SAs whose reqids do not match", "espalier xfrm policy list dir in", "tcpdump: does cleartext arrive?"},
	},
	{
		Name:    "XfrmInNoPols",
		Meaning: "No in or fwd policy covers a packet that came out of a tunnel, or any packet where policies are required by default. Cleartext that a policy wants encrypted is counted as XfrmInTmplMismatch.",
		Causes:  []string{"the in policy is missing, or its selector is narrower than the peer's out policy", "the fwd policy is missing on a gateway", "setdefault in block or fwd block"},
		Look:    []string{"espalier xfrm policy list", "espalier xfrm policy getdefault"},
	},
	{
		Name:    "XfrmInPolBlock",
		Meaning: "An in or fwd policy with action block covers the packet.",
		Causes:  []string{"the policy does what it says", "a policy of lower priority number than the one that should decide"},
		Look:    []string{"espalier xfrm policy list action block"},
	},
	{
		Name:    "XfrmInPolError",
		Meaning: "Looking up the in policy failed.",
		Causes:  []string{"a security module refused the flow", "the host is short of memory"},
		Look:    []string{"ctx of the policies; the audit log"},
	},
}
