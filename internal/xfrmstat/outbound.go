package xfrmstat

var outbound = []Counter{
	{
		Name:    "XfrmOutError",
		Meaning: "A packet could not be sent for a reason that no other counter is about.",
		Causes: []string{
			"longer than the path's MTU and not to be fragmented",
			"packet offload: the NIC cannot take this packet, and there is no software to fall back to",
			"cutting up or checksumming a large packet failed",
			"the host is short of memory",
		},
		Look: []string{"MTU and MSS of the inner interface", "offload of the SA: espalier status", "dmesg"},
	},
	{
		Name:    "XfrmOutBundleGenError",
		Meaning: "Policy and SA were found, but no way to send: the outer packet has no route, or too many layers.",
		Causes:  []string{"no route to the tunnel's other end", "the route leads back into the tunnel"},
		Look:    []string{"ip route get PEER"},
	},
	{
		Name:    "XfrmOutBundleCheckError",
		Meaning: "A cached way to send was found to be out of date and dropped with its packet.",
		Causes:  []string{"routes, SAs or policies changed under traffic: a few are normal"},
		Look:    []string{"whether it goes on rising"},
	},
	{
		Name:    "XfrmOutNoStates",
		Meaning: "An out policy asks for ESP, and no SA fits its template: the packet was dropped.",
		Causes: []string{
			"the template's reqid is not the SA's; here 0 is a number like any other",
			"the SA is not installed yet, has expired, or went with its link (offloaded SAs do, without an event)",
			"mode or addresses of template and SA differ",
			"the SA's own selector (sel) does not cover the packet",
			"a key exchange is under way: the first packets are dropped meanwhile",
		},
		Look: []string{"espalier status: it names policies that no SA serves", "espalier xfrm monitor acquire"},
	},
	{
		Name:    "XfrmOutStateProtoError",
		Meaning: "Encrypting failed, or the SA's protocol could not build its packet.",
		Causes:  []string{"the cipher is gone or failed", "a NIC's driver refused a packet"},
		Look:    []string{"dmesg", "/proc/crypto"},
	},
	{
		Name:    "XfrmOutStateModeError",
		Meaning: "The outer headers of the SA's mode could not be built.",
		Causes:  []string{"the packet does not fit into the path's MTU (tunnel mode, do not fragment)", "transport mode for a packet that is forwarded"},
		Look:    []string{"mode of the SA", "MTU of the path"},
	},
	{
		Name:    "XfrmOutStateSeqError",
		Meaning: "The SA has used all its sequence numbers: it will send nothing any more.",
		Causes:  []string{"2^32 packets without ESN: an hour or less on a fast link", "no rekeying"},
		Look:    []string{"espalier status: it foretells when", "flag esn at both ends; rekey at once"},
	},
	{
		Name:    "XfrmOutStateExpired",
		Meaning: "A packet was to be sent by an SA that has reached a hard limit.",
		Causes:  []string{"nobody has replaced the SA in time"},
		Look:    []string{"limits of the SA: espalier status", "log of the key exchange"},
	},
	{
		Name:    "XfrmOutPolBlock",
		Meaning: "An out policy with action block covers the packet.",
		Causes:  []string{"the policy does what it says", "setdefault out block, and no policy covers the packet"},
		Look:    []string{"espalier xfrm policy list action block", "espalier xfrm policy getdefault"},
	},
	{
		Name:    "XfrmOutPolDead",
		Meaning: "The policy that a packet had been given to was deleted meanwhile.",
		Causes:  []string{"policies changed under traffic: a few are normal"},
		Look:    []string{"whether it goes on rising"},
	},
	{
		Name:    "XfrmOutPolError",
		Meaning: "The out policy could not be applied: its templates cannot be resolved.",
		Causes: []string{
			"an SA was refused or could not be negotiated",
			"more templates than the kernel takes, of several policies together",
			"no source address for a tunnel's outer packet",
		},
		Look: []string{"espalier xfrm policy list", "log of the key exchange", "ip route get PEER"},
	},
	{
		Name:    "XfrmFwdHdrError",
		Meaning: "The addresses and ports of a packet that is forwarded could not be read, so no policy can be looked up.",
		Causes:  []string{"packets cut short or damaged"},
		Look:    []string{"tcpdump on the interface that they come in by"},
	},
	{
		Name:    "XfrmOutStateInvalid",
		Meaning: "A packet was to be sent by an SA that is being deleted, or is not installed yet.",
		Causes:  []string{"the moment of a rekey: a few are normal"},
		Look:    []string{"whether it goes on rising"},
	},
	{
		Name:    "XfrmAcquireError",
		Meaning: "A packet arrived for an SPI that is only reserved: its SA is still being negotiated.",
		Causes:  []string{"the peer was faster: it sends before the SA is installed here", "a key exchange that never ended"},
		Look:    []string{"larval SAs: espalier xfrm state list", "log of the key exchange"},
	},
	{
		Name: "XfrmOutStateDirError", Since: "6.10",
		Meaning: "A packet was to be sent by an SA that is marked for receiving (dir in).",
		Causes:  []string{"dir of the SA is wrong", "the same reqid, mode and addresses lead to an SA of the other direction"},
		Look:    []string{"dir of the SAs: espalier xfrm state list"},
	},
	{
		Name: "XfrmInStateDirError", Since: "6.10",
		Meaning: "ESP arrived for an SA that is marked for sending (dir out).",
		Causes:  []string{"dir of the SA is wrong", "a host that hears its own packets"},
		Look:    []string{"dir of the SAs: espalier xfrm state list"},
	},
	{
		Name: "XfrmInIptfsError", Since: "6.14",
		Meaning: "The stream of an IP-TFS SA (RFC 9347) could not be taken apart.",
		Causes:  []string{"the peer does not send IP-TFS by this SA", "packets were lost that the rest depends on"},
		Look:    []string{"mode of the SA at both ends"},
	},
	{
		Name: "XfrmOutNoQueueSpace", Since: "6.14",
		Meaning: "The queue of an IP-TFS SA (RFC 9347) was full.",
		Causes:  []string{"more is sent than the SA's rate lets through"},
		Look:    []string{"max-queue-size of the SA"},
	},
}
