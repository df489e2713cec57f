package probe

import (
	"fmt"
	"io/fs"
	"strings"
	"sync"
)

// kernel is what files say of the running kernel, read once.
type kernel struct {
	root         fs.FS
	release      string  // uname -r; "" if unknown
	version      version // of release
	distribution distribution
	container    string // what this is run in, "docker"; "" on the host itself
	containerBy  Evidence
	config       config
	modules      *modules
	symbols      func() symbols // read when first asked: it takes some 100 ms
}

// version is the first two numbers of a kernel's release.
type version [2]int

func (v version) before(w version) bool { return v[0] < w[0] || v[0] == w[0] && v[1] < w[1] }

func (v version) String() string { return fmt.Sprintf("%d.%d", v[0], v[1]) }

// parseVersion reads "6.12.57+deb13-amd64"; the zero version if it is none.
func parseVersion(release string) (v version) {
	if n, _ := fmt.Sscanf(release, "%d.%d", &v[0], &v[1]); n != 2 || v[0] < 0 || v[1] < 0 {
		return version{}
	}
	return v
}

func readKernel(root fs.FS) *kernel {
	k := &kernel{root: root, release: readWord(root, "proc/sys/kernel/osrelease")}
	k.container, k.containerBy = readContainer(root)
	k.version = parseVersion(k.release)
	k.distribution, _ = readDistribution(root)
	k.config = readConfig(root, k.release)
	k.modules = readModules(root, k.release, k.config)
	k.symbols = sync.OnceValue(func() symbols { return readSymbols(root, wantedSymbols()) })
	return k
}

// readWord reads a file of one line; "" if it cannot be read.
func readWord(root fs.FS, name string) string {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// layer asks what every offload needs of the kernel, then what else is worth knowing of it.
func (k *kernel) layer() Layer {
	l := Layer{Name: "kernel", Summary: "Linux " + k.release}
	if k.release == "" {
		l.Summary = ""
	}
	l.Checks = append(l.Checks, k.checkRelease(), k.checkContainer())
	l.Checks = append(l.Checks, k.checkOptions(hostOptions)...)
	l.Checks = append(l.Checks, k.checkLoading(), k.checkLockdown())
	return Layer{l.Name, l.Summary, append(l.Checks, k.checkFeatures()...)}
}

// driverLayer asks what the drivers of a device need of the kernel; no check if nothing is known of them.
func (k *kernel) driverLayer(drivers []string) Layer {
	l := Layer{Name: "kernel"}
	for _, driver := range drivers {
		if d := driverESP(driver); d != nil && d.Option != "" {
			o := option{name: d.Option, weight: Required, symbol: driverFunctions[d.Option], module: driverModules[d.Option]}
			l.Checks = append(l.Checks, k.checkDriver(driver, o))
		}
	}
	return l
}

func (k *kernel) checkRelease() Check {
	c := Check{ID: "kernel.release", Title: "Linux", Weight: Informs, Answer: Yes, Why: k.release,
		Evidence: []Evidence{{"/proc/sys/kernel/osrelease", k.release}}}
	if k.release == "" {
		c.Answer, c.Why = Unknown, "the release cannot be read"
	}
	return c
}

// checkContainer: in a container the files of the image are not those of the kernel.
func (k *kernel) checkContainer() Check {
	c := Check{ID: "kernel.host", Title: "on the host itself", Weight: Warns, Answer: Yes, Why: "no sign of a container", Evidence: []Evidence{k.containerBy}}
	if k.container != "" {
		c.Answer = No
		c.Why = fmt.Sprintf("in a container (%s): /boot, /lib/modules and os-release are its image's, not the host's", k.container)
		c.Fix = "Run it on the host, or with the host's files: nsenter --target 1 --mount --net espalier doctor, from a privileged container in the host's PID namespace."
	}
	return c
}

const onlySigned = "only signed ones: a driver that you build yourself must be signed, too"

// checkLoading: modules that are not there yet can still come.
func (k *kernel) checkLoading() Check {
	c := Check{ID: "kernel.module-loading", Title: "modules can be loaded", Weight: Informs, Answer: Yes, Why: "nothing forbids it",
		Evidence: []Evidence{{"/proc/sys/kernel/modules_disabled", readWord(k.root, "proc/sys/kernel/modules_disabled")}}}
	switch {
	case k.modules.off:
		c.Answer, c.Why = No, "kernel built without modules: all it has is built in"
		c.Evidence = []Evidence{k.config.evidence("MODULES")}
		c.Fix = "Nothing, if what is asked for above is built in; else build the kernel with CONFIG_MODULES=y, or with all of it."
	case k.modules.disabled:
		c.Answer, c.Why = No, "forbidden until the next boot"
		c.Fix = "Reboot, and set kernel.modules_disabled after all modules are loaded (/etc/modules-load.d)."
		c.Evidence = []Evidence{{"/proc/sys/kernel/modules_disabled", "1"}}
	case readWord(k.root, "sys/module/module/parameters/sig_enforce") == "Y":
		c.Why = onlySigned
		c.Evidence = []Evidence{{"/sys/module/module/parameters/sig_enforce", "Y"}}
	case k.config.value("MODULE_SIG_FORCE") == "y":
		c.Why = onlySigned
		c.Evidence = []Evidence{k.config.evidence("MODULE_SIG_FORCE")}
	}
	return c
}

// checkLockdown: kernel_lockdown(7) leaves IPsec alone, but takes unsigned modules and some of what
// verdicts look at.
func (k *kernel) checkLockdown() Check {
	const file = "sys/kernel/security/lockdown"
	c := Check{ID: "kernel.lockdown", Title: "no lockdown", Weight: Informs, Answer: Yes, Why: "not locked down"}
	read, err := fs.ReadFile(k.root, file)
	text := strings.TrimSpace(string(read))
	_, rest, found := strings.Cut(text, "[")
	mode, _, closed := strings.Cut(rest, "]")
	switch {
	case found && closed && mode != "none":
		c.Answer, c.Why = No, "locked down ("+mode+"): unsigned modules are refused; offload works all the same"
		c.Fix = "Nothing for the kernel's own drivers. One that you build yourself has to be signed by a key that the kernel knows: mokutil --import."
		c.Evidence = []Evidence{{"/" + file, text}}
	case found && closed:
		c.Evidence = []Evidence{{"/" + file, text}}
	case k.config.known() && k.config.value("SECURITY_LOCKDOWN_LSM") == "n":
		c.Evidence = []Evidence{k.config.evidence("SECURITY_LOCKDOWN_LSM")}
	case err != nil:
		c.Answer, c.Why = Unknown, "/"+file+": "+reason(err).Error()
		c.Evidence = []Evidence{{"/" + file, ""}}
	default:
		c.Answer, c.Why = Unknown, "/"+file+" names no state"
		c.Evidence = []Evidence{{"/" + file, text}}
	}
	return c
}
