package probe

// feature of IPsec that came with some version of Linux.
type feature struct {
	id, title string
	since     version // of Linux itself
	symbol    string  // a function that came with it: kernels that took it over earlier have that, too; "" if none did
	without   string  // what a kernel without it does
}

// features that decide on what can be asked of a kernel. The versions are those of the first release
// that has the commit in net/xfrm or, for ConnectX, in drivers/net/ethernet/mellanox/mlx5; long-term
// and enterprise kernels took some of them over (XFRMA_SA_PCPU is in 6.12.y, packet offload in RHEL
// 9.4's 5.14), so that a version alone proves only what is there, not what is missing.
var features = []feature{
	{"kernel.crypto-offload", "crypto offload", version{4, 12}, "xfrm_dev_state_add", "offload is refused or ignored"},
	{"kernel.packet-offload", "packet offload", version{6, 2}, "xfrm_dev_policy_add", "SAs with it are refused, policies with it accepted and not offloaded"},
	{"kernel.sa-direction", "SA direction", version{6, 10}, "", "the direction of an SA is ignored"},
	{"kernel.nat-keepalive", "NAT keepalives", version{6, 11}, "xfrm_nat_keepalive_init", "someone else has to send them"},
	{"kernel.pcpu", "SAs of one CPU", version{6, 13}, "xfrm_input_state_lookup", "an SA is the work of one CPU at a time"},
}

// checkFeatures tells what this version of the kernel can.
func (k *kernel) checkFeatures() []Check {
	var checks []Check
	for _, f := range features {
		c := Check{ID: f.id, Title: f.title, Weight: Informs, Evidence: []Evidence{{"/proc/sys/kernel/osrelease", k.release}}}
		came := "came with Linux " + f.since.String() + ", this is " + k.version.String()
		switch {
		case k.version == version{}:
			c.Answer, c.Why = Unknown, "the kernel's release cannot be read"
		case !k.version.before(f.since):
			c.Answer, c.Why = Yes, came
		case f.symbol != "" && k.symbols().has[f.symbol]:
			c.Answer, c.Why = Yes, came+", which has taken it over"
			c.Evidence = append(c.Evidence, Evidence{"/proc/kallsyms", f.symbol})
		case f.symbol == "" || k.symbols().err != nil:
			c.Answer, c.Why = Unknown, came+"; whether it was taken over is not seen from here"
			c.Cause = "later than Linux " + k.version.String() + "; whether taken over is not seen from here"
		default:
			c.Answer, c.Why, c.Cause = No, came+": "+f.without, "later than Linux "+k.version.String()
			c.Fix = k.fixOlder(f.since)
			c.Evidence = append(c.Evidence, Evidence{"/proc/kallsyms", f.symbol + " is missing"})
		}
		checks = append(checks, c)
	}
	return checks
}
