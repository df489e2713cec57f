package probe

import (
	"fmt"
	"io/fs"
	"strings"
)

// option of the kernel's build (Kconfig), and how else one sees that it is on.
type option struct {
	name    string   // without CONFIG_
	weight  Weight   // how much is lost without
	module  string   // that it makes if it is m; "" if it cannot be m
	symbol  string   // a function that is there only with it, as soon as it is built in or loaded
	implied []string // modules that are there only with it
	file    string   // that is there only with it
	lost    string   // what is lost without it, for those that are not required
}

// hostOptions are what offloaded ESP needs whatever the NIC (net/xfrm, net/ipv4, net/ipv6 and
// crypto/Kconfig), in the order of who needs whom. The kernel sets up AES-GCM of its own for each SA
// even where the NIC does the work (esp_init_aead in net/ipv4/esp4.c).
var hostOptions = []option{
	{name: "XFRM", weight: Required, symbol: "xfrm_state_lookup", file: "proc/net/xfrm_stat", implied: []string{"esp4", "esp6", "xfrm_user"}},
	{name: "XFRM_OFFLOAD", weight: Required, symbol: "xfrm_dev_state_add", implied: []string{"esp4_offload", "esp6_offload"}},
	{name: "XFRM_USER", weight: Required, module: "xfrm_user", symbol: "xfrm_user_rcv_msg"},
	{name: "INET_ESP", weight: Required, module: "esp4", symbol: "esp_output_head"},
	{name: "INET_ESP_OFFLOAD", weight: Required, module: "esp4_offload", symbol: "esp4_gro_receive"},
	{name: "INET6_ESP", weight: Warns, module: "esp6", symbol: "esp6_output_head", lost: "no ESP over IPv6"},
	{name: "INET6_ESP_OFFLOAD", weight: Warns, module: "esp6_offload", symbol: "esp6_gro_receive", lost: "ESP over IPv6 stays on the CPU"},
	{name: "CRYPTO_GCM", weight: Required, module: "gcm", symbol: "crypto_rfc4106_create"},
	{name: "CRYPTO_CTR", weight: Informs, module: "ctr", symbol: "crypto_ctr_create", lost: "AES-GCM works by the CPU's own instructions only"},
	{name: "CRYPTO_SEQIV", weight: Required, module: "seqiv", symbol: "seqiv_aead_create"},
}

// driverFunctions are what the options of drivers (Drivers) bring into the running kernel.
var driverFunctions = map[string]string{
	"MLX5_EN_IPSEC": "mlx5e_ipsec_init",
	"IXGBE_IPSEC":   "ixgbe_init_ipsec_offload",
	"IXGBEVF_IPSEC": "ixgbevf_init_ipsec_offload",
	"NFP_NET_IPSEC": "nfp_net_ipsec_init",
}

// driverModules are the options of drivers that make a module of their own.
var driverModules = map[string]string{"CHELSIO_IPSEC_INLINE": "ch_ipsec", "NETDEVSIM": "netdevsim"}

func wantedSymbols() map[string]bool {
	names := map[string]bool{witness: true, connectXFunction: true}
	for _, o := range hostOptions {
		names[o.symbol] = true
	}
	for _, function := range driverFunctions {
		names[function] = true
	}
	for _, f := range features {
		names[f.symbol] = true
	}
	return names
}

// finding is a check with what its fix will depend on.
type finding struct {
	check Check
	built bool         // it is in the kernel's build, whatever became of its module
	state availability // of the module, if it is one
	option
}

// checkOptions asks for each option; what is missing for the same reason has one fix in common.
func (k *kernel) checkOptions(options []option) []Check {
	findings := make([]finding, len(options))
	for i, o := range options {
		findings[i] = k.find(o)
	}
	k.fix(findings)
	checks := make([]Check, len(options))
	for i, f := range findings {
		checks[i] = f.check
	}
	return checks
}

// checkDriver asks for the option of a driver. A driver that came from elsewhere than the kernel does
// not follow the kernel's configuration: there its own functions tell.
func (k *kernel) checkDriver(driver string, o option) Check {
	var f finding
	if k.modules.foreign(driver) {
		f = k.findSymbol(o, newCheck(o))
		f.check.Evidence = append(f.check.Evidence, Evidence{"/proc/modules", driver + " (" + k.modules.loaded[driver] + "), not of the kernel's build"})
	} else {
		f = k.find(o)
		if driver == "mlx5_core" && f.check.Answer == Yes {
			k.checkInnova(&f)
		}
	}
	fs := []finding{f}
	k.fix(fs)
	return fs[0].check
}

// checkInnova: MLX5_EN_IPSEC has not always stood for ConnectX. Linux 4.13 had IPsec for Innova cards only, from
// 5.2 on under MLX5_FPGA_IPSEC, from 5.8 on besides for ConnectX under MLX5_IPSEC; since 5.18 there is ConnectX
// alone, without an option of its own (drivers/net/ethernet/mellanox/mlx5/core/Kconfig). Kernels that took it over
// later have its functions.
func (k *kernel) checkInnova(f *finding) {
	const onlyInnova = "kernel built with IPsec for Innova cards only, without MLX5_IPSEC"
	_, named := k.config.values["MLX5_FPGA_IPSEC"]
	_, ours := k.config.values["MLX5_IPSEC"]
	switch {
	case k.config.value("MLX5_IPSEC") == "y":
		return
	case k.config.value("MLX5_FPGA_IPSEC") == "y":
		f.built, f.name = false, "MLX5_IPSEC"
		f.check.Answer, f.check.Why = No, onlyInnova
		f.check.Evidence = append(f.check.Evidence, k.config.evidence("MLX5_FPGA_IPSEC"), k.config.evidence("MLX5_IPSEC"))
		return
	case named || ours || k.version == version{} || !k.version.before(version{5, 2}):
		return
	}
	s := k.symbols()
	switch evidence := (Evidence{"/proc/kallsyms", connectXFunction}); {
	case s.has[connectXFunction]:
		f.check.Evidence = append(f.check.Evidence, evidence)
	case s.err == nil && s.has[driverFunctions["MLX5_EN_IPSEC"]]:
		f.built, f.name = false, "MLX5_IPSEC"
		f.check.Answer, f.check.Why = No, onlyInnova+", as before Linux 5.8"
		f.check.Evidence = append(f.check.Evidence, Evidence{evidence.Source, connectXFunction + " is missing"})
	default:
		f.check.Answer = Unknown
		f.check.Why = "before Linux 5.8 MLX5_EN_IPSEC is for Innova cards; whether ConnectX was taken over is not seen from here"
	}
}

// connectXFunction came with IPsec for ConnectX alone (mlx5/core/en_accel/ipsec_offload.c).
const connectXFunction = "mlx5_ipsec_device_caps"

// connectX asks, on a host without a NIC that could offload, for what a ConnectX or BlueField would need.
func (k *kernel) connectX() []Check {
	if !k.config.known() {
		return nil // and there is no driver whose functions could tell
	}
	return k.checkOptions([]option{{name: "MLX5_EN_IPSEC", weight: Informs, lost: "no offload to a ConnectX or BlueField"}})
}

func newCheck(o option) Check {
	id := "kernel." + strings.ToLower(strings.ReplaceAll(o.name, "_", "-"))
	return Check{ID: id, Title: o.name, Weight: o.weight}
}

// find answers from the configuration and, for a module, from what of modules there is.
func (k *kernel) find(o option) finding {
	c := newCheck(o)
	if !k.config.known() {
		return k.findElsewhere(o, c)
	}
	c.Evidence = []Evidence{k.config.evidence(o.name)}
	switch v := k.config.value(o.name); {
	case v == "y":
		c.Answer, c.Why = Yes, "built in"
		return finding{check: c, built: true, option: o}
	case v == "m" && o.module != "":
		return k.findModule(o, c)
	}
	return missing(o, c)
}

func missing(o option, c Check) finding {
	c.Answer, c.Why, c.Cause = No, "kernel built without "+o.name, "not in this kernel"
	if o.lost != "" {
		c.Why += ": " + o.lost
	}
	return finding{check: c, option: o}
}

// findModule answers for an option whose module the running kernel may have or get.
func (k *kernel) findModule(o option, c Check) finding {
	state, evidence := k.modules.find(k.root, o.module)
	c.Evidence = append(c.Evidence, evidence)
	c.Answer = No
	switch state {
	case loaded:
		c.Answer, c.Why = Yes, "module "+o.module+" is loaded"
	case builtIn:
		c.Answer, c.Why = Yes, "built in"
	case loadable:
		c.Answer, c.Why = Yes, "module "+o.module+" is loaded when needed"
	case notInstalled:
		c.Why, c.Cause = "module "+o.module+" is not installed", "modules not installed"
	case staleTree:
		c.Cause = "cannot be loaded: nothing of Linux " + k.release + " is in /lib/modules"
		c.Why = "module " + o.module + " " + c.Cause
	case isBlocked:
		c.Cause = "kept from loading by " + evidence.Source
		c.Why = "module " + o.module + " is " + c.Cause
	case isDisabled:
		c.Cause = "not loaded, and no module can be until the next boot"
		c.Why = "module " + o.module + " is " + c.Cause
	default:
		c.Answer, c.Cause = Unknown, "not known whether it can be loaded: "+evidence.Source+" cannot be read"
		c.Why = "module " + o.module + ": " + c.Cause
	}
	if k.container != "" && (state == notInstalled || state == staleTree) {
		c.Answer, c.Cause = Unknown, "not loaded; what the host could load is not seen from a container"
		c.Why = "module " + o.module + " is " + c.Cause
	}
	return finding{check: c, built: true, state: state, option: o}
}

// findElsewhere answers without a configuration, from what would not be there without the option.
func (k *kernel) findElsewhere(o option, c Check) finding {
	if o.file != "" {
		if _, err := fs.Stat(k.root, o.file); err == nil {
			c.Answer, c.Why, c.Evidence = Yes, "built in", []Evidence{{"/" + o.file, "is there"}}
			return finding{check: c, built: true, option: o}
		}
	}
	for _, name := range o.implied {
		if k.modules.has(name) {
			_, evidence := k.modules.find(k.root, name)
			c.Answer, c.Why, c.Evidence = Yes, "module "+name+" would not be there without", []Evidence{evidence}
			return finding{check: c, built: true, option: o}
		}
	}
	if k.modules.has(o.module) {
		return k.findModule(o, c)
	}
	return k.findSymbol(o, c)
}

// findSymbol answers by the functions of the running kernel. One that is missing is missing in the
// kernel, unless a module that is not loaded may have it.
func (k *kernel) findSymbol(o option, c Check) finding {
	s := k.symbols()
	switch {
	case o.symbol != "" && s.has[o.symbol]:
		c.Answer, c.Why, c.Evidence = Yes, "the running kernel has its functions", []Evidence{{"/proc/kallsyms", o.symbol}}
		return finding{check: c, built: true, option: o}
	case s.err == nil && o.symbol != "" && (o.module == "" || k.modules.off || k.installed()):
		c.Evidence = []Evidence{{"/proc/kallsyms", o.symbol + " is missing"}}
		return missing(o, c)
	}
	c.Answer = Unknown
	c.Why = fmt.Sprintf("whether the kernel has %s is not known: %v", o.name, k.config.err)
	c.Cause = fmt.Sprintf("not known: %v", k.config.err)
	if k.config.err == nil { // of a driver that it does not speak of
		c.Why, c.Cause = fmt.Sprintf("whether the driver has its IPsec is not known: /proc/kallsyms: %v", s.err), ""
	}
	return finding{check: c, option: o}
}

// installed reports whether the modules of this kernel that are installed are known, and the host's.
func (k *kernel) installed() bool { return k.container == "" && k.modules.files != nil }
