package conformance

// difference is how one kind of target differs from all others in a case.
type difference struct {
	name    string // of the case
	where   func(*Target) bool
	outcome string
	why     string
}

func device(t *Target) bool { return t.Device }
func kernel(t *Target) bool { return !t.Device }

// before is a kernel older than a version.
func before(major, minor int) func(*Target) bool {
	return func(t *Target) bool { return !t.Device && (t.Major < major || t.Major == major && t.Minor < minor) }
}

// differences are all there are. What is not here is the same everywhere.
var differences = []difference{
	{"an SA with a mark", device, "EOPNOTSUPP", "packets from the TUN have no mark to go by"},
	{"an SA with an if_id", device, "EOPNOTSUPP", "no XFRM interfaces lead into the device"},
	{"an SA with a hard limit of 0 packets", device, "EINVAL", "a limit that is reached from the start makes an SA that nobody can use"},
	{"a policy with a mark", device, "EOPNOTSUPP; without it ENOENT, with it ENOENT", "packets from the TUN have no mark to go by"},
	{"a policy with an if_id", device, "EOPNOTSUPP; without it ENOENT, with it ENOENT", "no XFRM interfaces lead into the device"},
	{"allocating an SPI that is taken", device, "ok, ENOENT, and nothing stays behind", "a request that fails changes nothing"},
	{"allocating for AH", device, "EOPNOTSUPP", "it does ESP only"},
	{"two templates", device, "EOPNOTSUPP", "it applies one ESP SA to a packet"},
	{"an out tunnel to nowhere", device, "EINVAL", "the other end has to be known when a packet comes"},
	{"a block policy with a template", device, "ok, reads back with 0", "nothing is protected that is discarded"},
	{"flags of a policy", device, "localok EOPNOTSUPP, icmp EOPNOTSUPP", "sockets and ICMP errors are not looked at"},
	{"limits of a policy", device, "of time ok 10 20 30 40, of packets EOPNOTSUPP", "kernels take limits of packets, and never look at them"},
	{"policies of sub type", device, "EOPNOTSUPP", "there is only the main database"},
	{"a selector with an interface", device, "EOPNOTSUPP", "all packets come from the TUN"},
	{"the default policy", device, "accept accept accept; set accept ok GETDEFAULT, block EOPNOTSUPP", "only traffic that policies name is steered into the device"},
	{"setting sequence numbers back", device, "EINVAL: oseq 3", "numbers are nonces: none may be used twice"},

	{"a peer that has moved and sends on", device, "4500 to 5001, ", "without an age kernels tell it with every packet, which is a flood"},

	{"the replay state of an SA", kernel, "oseq 2, 2 packets of 200 bytes, thresholds 5 and 2", "kernels take XFRMA_ETIMER_THRESH in jiffies, 250 a second in Debian's, and tell it in tenths of a second"},
	{"an update of another direction", before(6, 11), "ok", "XFRMA_SA_DIR is not known"},
	{"completing a larval SA of another direction", before(6, 11), "ok", "XFRMA_SA_DIR is not known"},
	{"which SAs take a CPU", before(6, 12), "dir out ok and reads back none, dir in ok, no dir ok, a CPU that is not there ok", "XFRMA_SA_PCPU is not known"},
	{"SAs of the CPUs send, not one for all that is newer", before(6, 12), "of the CPUs 0, for all 8; without them for all 11", "XFRMA_SA_PCPU is not known"},
	{"which SAs take NAT keepalives", before(6, 11), "dir out ok and reads back 0, dir in ok, no dir ok, no encapsulation ok", "XFRMA_NAT_KEEPALIVE_INTERVAL is not known"},
	{"which SAs take ages of mappings", before(6, 11), "dir in ok and reads back 20, no dir ok, dir out ok, no encapsulation EINVAL", "XFRMA_SA_DIR is not known"},
	{"an update of UDP encapsulation", before(6, 11), "ok: ports 4501 50001, original address 10.9.9.9, keepalive 0", "XFRMA_NAT_KEEPALIVE_INTERVAL is not known"},
	{"NAT keepalives", before(6, 11), "nothing, of 0 packets; and after an update nothing, ", "XFRMA_NAT_KEEPALIVE_INTERVAL is not known"},
}

func differenceOf(t *Target, name string) *difference {
	for i := range differences {
		if d := &differences[i]; d.name == name && d.where(t) {
			return d
		}
	}
	return nil
}
