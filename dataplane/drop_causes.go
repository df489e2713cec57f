package dataplane

// Causes are the likeliest of a reason, what to look at among them, the likeliest first; nil for what is no
// reason of a device's.
func Causes(reason string) []string {
	for r, causes := range likely {
		if reasonTable[r].name == reason {
			return causes
		}
	}
	for r, causes := range guardLikely {
		if guardReasons[r].Reason == reason {
			return causes
		}
	}
	return nil
}

// likely is where a reason usually comes from: one row for each of reasonTable.
var likely = [reasons][]string{
	OutMalformed:        {"a program writes packets of its own (raw sockets, AF_PACKET) into the protected network", "a bug: please report it with the packet"},
	OutJumbogram:        {"an MTU above 65575 on the inner interface: lower it"},
	OutDiscard:          {"the policy does what it says: espalier xfrm policy list tells which (action block)", "a policy of lower priority number than the one that was meant"},
	OutFragmentSelector: {"a program sends datagrams larger than the MTU, and the policy selects ports, which later fragments have not", "select the protocol without ports, or have the program send less at a time"},
	OutReassembly:       {"fragments are lost before the device", "somebody sends fragments that overlap, which nobody does honestly"},
	OutNoSA:             {"the template's reqid is not the SA's: espalier status names the policy", "the SA has expired, or a key exchange is under way", "mode, addresses or the SA's own selector differ"},
	OutExpired:          {"nobody replaced the SA when its soft limit was told", "limits so low that they are reached before a key exchange is done"},
	OutSequence:         {"2^32 packets without ESN: rekey earlier, or use flag esn on both hosts"},
	OutExtensions:       {"IPv6 with hop-by-hop, routing or destination options through an SA with encap: leave encap out, or use tunnel mode"},
	OutTooBig:           {"the sender ignores or never gets ICMP too-big, which the device answers: look for filters of ICMP", "an MTU of the inner interface that leaves no room for ESP"},
	OutNoRoute:          {"the route to the peer went with its link or address: ip route get PEER", "the peer is reached only through the very policy: the underlay's mark leads past it (docs/device.md)"},
	OutFiltered:         {"a rule in output, postrouting or egress drops protocol 50 or UDP 4500: espalier doctor names it"},
	OutSendError:        {"the link is down", "the neighbour does not answer: ip neighbour", "the host is short of socket memory"},

	InOverrun:          {"more ESP than this CPU decrypts: top, espalier status", "the peer sends packets larger than this device's MTU: make both the same"},
	InTruncated:        {"something else than ESP with protocol 50, or on UDP 4500", "a path that cuts packets off"},
	InNotESP:           {"a key exchange over UDP 4500, which is no fault", "strangers that look for open ports"},
	InNoSA:             {"the peer still sends by an SA that was deleted here", "the SA for receiving is missing here: espalier status", "this host was started anew, and the peer was not"},
	InLarval:           {"the peer sends before the key exchange has ended here: a few are normal"},
	InDirection:        {"dir or offload dir of the SA is wrong", "a packet of this host's own came back to it"},
	InExpired:          {"the peer goes on with an SA that has come to its end here: its limits are larger, or it does not rekey"},
	InEncapsulation:    {"encap is given on one of the two hosts only", "a NAT is between the hosts, and encap is missing on one"},
	InReplay:           {"the network repeats packets: a few are normal", "somebody records packets and sends them again", "the peer was started anew with the same key, which must not be"},
	InWindow:           {"packets overtake each other by more than the window: several paths or queues", "replay-window is too narrow for the rate: 128 and more at 10 Gb/s"},
	InIntegrity:        {"the keys of the two hosts differ", "the salt differs: it is the last 4 bytes of the key", "ESN is on at one end only", "packets are changed on the way, or forged"},
	InPadding:          {"the ICV's length differs between the hosts", "a peer that pads against RFC 4303"},
	InLength:           {"a peer that adds traffic flow padding against RFC 4303", "a fault in the peer's segmentation: switch its offloads off to see"},
	InNextHeader:       {"one host has transport mode, the other tunnel mode"},
	InMalformed:        {"a peer's program writes packets of its own", "a fault in the peer's segmentation or checksum offload"},
	InECN:              {"a router marks congestion on packets that did not ask for it", "the peer does not follow RFC 6040"},
	InSelector:         {"the selectors of the two hosts do not mirror each other", "the peer forwards what the SA is not for"},
	InFragmentSelector: {"the peer sends datagrams larger than the MTU, and the SA selects ports, which later fragments have not"},
	InNoPolicy:         {"the in policy is missing, or fwd for what goes on to others: espalier status names the SA"},
	InPolicyDiscard:    {"the policy does what it says: espalier xfrm policy list tells which (action block)"},
	InPolicyMismatch:   {"the template's reqid is not the SA's: vendors' examples swap the two", "mode or addresses of template and SA differ", "it came by another tunnel than the policy asks for"},
	InTUN:              {"the inner interface is down, or its queue full: the programs that receive are too slow"},

	InTooBigUnknown: {"messages about traffic of others, or forged ones: they change nothing"},
	InTooBigRefused: {"a router that answers very late, or forged messages: they change nothing"},
}

// guardLikely is the same for guardReasons.
var guardLikely = [len(guardReasons)][]string{
	{"a program is bound to the device (ping -I, SO_BINDTODEVICE) and so goes past the routes", "the routes of the device were deleted: espalier dataplane puts them back when it starts", "a policy covers what was not meant to be protected"},
	{"the peer sends in clear: its policy is missing or narrower, or it was stopped", "a third host answers for a protected address", "the policy covers traffic that nobody protects: see espalier xfrm policy list"},
}
