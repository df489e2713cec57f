package probe

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// fix says what to do about each No. Findings with the same cause get the same words, so that they
// are told once.
func (k *kernel) fix(findings []finding) {
	var options, install []string
	for _, f := range findings {
		switch {
		case f.check.Answer != No:
		case !f.built:
			options = append(options, f.name)
		case f.state == notInstalled:
			install = append(install, f.module)
		}
	}
	for i := range findings {
		f := &findings[i]
		switch {
		case f.check.Answer != No:
		case !f.built:
			f.check.Fix = k.fixBuild(options)
		case f.state == notInstalled:
			f.check.Fix = k.fixInstall(install)
		case f.state == staleTree:
			f.check.Fix = k.fixStale()
		case f.state == isBlocked:
			f.check.Fix = fixBlocked(f.module, f.check.Evidence[len(f.check.Evidence)-1])
		case f.state == isDisabled:
			f.check.Fix = "kernel.modules_disabled=1 lasts until the next boot: name the modules in /etc/modules-load.d/ipsec.conf, so that they are loaded before it is set, and reboot."
		}
	}
}

// immutable distributions have their kernel in an image that is replaced as a whole: ID or VARIANT_ID
// of os-release, and where the image comes from.
var immutable = map[string]string{
	"talos":        "build an image with a kernel of your own (siderolabs/pkgs, kernel/build/config-amd64 or -arm64)",
	"flatcar":      "build an image of your own (flatcar/scripts, coreos-modules)",
	"cos":          "on GKE take the node image ubuntu_containerd",
	"bottlerocket": "build a variant with a kernel of your own",
	"coreos":       "override it: rpm-ostree override replace kernel packages that have it",
	"nixos":        "set boot.kernelPatches with these in structuredExtraConfig and rebuild the system",
}

func (k *kernel) immutableWay() (string, bool) {
	for _, id := range append([]string{k.distribution.ID, k.distribution.Variant}, k.distribution.Like...) {
		if way, ok := immutable[id]; ok {
			return way, true
		}
	}
	return "", false
}

// fixBuild: nothing but another kernel helps.
func (k *kernel) fixBuild(options []string) string {
	wanted := configLines(options, k.version)
	way, isImmutable := k.immutableWay()
	d := k.distribution
	driverOnly := !slices.ContainsFunc(options, func(o string) bool { return !slices.Contains([]string{"MLX5_EN_IPSEC", "MLX5_IPSEC"}, o) })
	switch {
	case k.container != "":
		return "Boot the host with a kernel that has " + wanted + "."
	case isImmutable:
		return fmt.Sprintf("%s has its kernel in its image: take a release whose kernel has %s, or %s.", d.name(), wanted, way)
	case k.isForeign():
		return fmt.Sprintf("This kernel is not one of %s's: nothing of it is in /boot or /lib/modules. Where it is built or given to the machine, set %s.", d.name(), wanted)
	case d.is("ubuntu"):
		return "Ubuntu's generic kernels have it, some flavours do not: apt install linux-image-generic, and boot that; or build this one with " + wanted + "."
	case d.is("debian") && driverOnly:
		return "Debian builds its kernels without " + strings.Join(options, ", ") + ". Ways out: rebuild Debian's kernel with " + wanted + " (apt source linux); install NVIDIA's DOCA-Host, " +
			"which brings a driver of its own; or run a kernel of a distribution that has it (Ubuntu, RHEL and its likes). Meanwhile ESP runs on the CPU."
	case d.is("debian"):
		return "Debian's kernels have it, those for clouds perhaps not: apt install linux-image-amd64 (or -arm64), and boot that; or build this one with " + wanted + "."
	case d.is("rhel", "fedora", "centos"):
		return "The distribution's own kernel has it: dnf install kernel, and boot that; or build this one with " + wanted + "."
	case d.is("suse", "sles", "opensuse"):
		return "Boot kernel-default (zypper install kernel-default), not the kernel for small VMs; or build this one with " + wanted + "."
	case d.is("arch"):
		return "Arch's own kernels have it: pacman -S linux (or linux-lts), and boot that; or build this one with " + wanted + "."
	case d.is("alpine"):
		return "Alpine's linux-lts has more than linux-virt: apk add linux-lts, and boot that; or build this one with " + wanted + "."
	}
	return "Build the kernel with " + wanted + ", and boot that."
}

// configLines is what to set: options that others select cannot be set by themselves. INET_ESP does that since Linux
// 5.8.
func configLines(options []string, v version) string {
	set := slices.Clone(options)
	selected := func(option, by string) {
		if i := slices.Index(set, option); i >= 0 {
			set = slices.Delete(set, i, i+1)
			if !slices.Contains(set, by) {
				set = append(set, by)
			}
		}
	}
	selected("XFRM_OFFLOAD", "INET_ESP_OFFLOAD")
	if !v.before(version{5, 8}) {
		for _, o := range []string{"CRYPTO_GCM", "CRYPTO_CTR", "CRYPTO_SEQIV"} {
			selected(o, "INET_ESP")
		}
	}
	selected("XFRM", "XFRM_USER")
	if slices.Contains(set, "MLX5_IPSEC") && !slices.Contains(set, "MLX5_EN_IPSEC") {
		set = append(set, "MLX5_EN_IPSEC")
	}
	for i, o := range set {
		set[i] = "CONFIG_" + o + "=y"
	}
	return strings.Join(set, " ")
}

// isForeign: a kernel of which the system has neither file nor module was given to the machine from
// outside, as to many VMs.
func (k *kernel) isForeign() bool {
	if k.release == "" || k.modules.dir != "" {
		return false
	}
	for _, file := range []string{"boot/vmlinuz-" + k.release, "boot/config-" + k.release} {
		if _, err := fs.Stat(k.root, file); err == nil {
			return false
		}
	}
	return true
}

// fixInstall: the kernel has the modules, the disk has not.
func (k *kernel) fixInstall(names []string) string {
	what := strings.Join(names, ", ")
	way, isImmutable := k.immutableWay()
	d := k.distribution
	switch {
	case isImmutable:
		return fmt.Sprintf("%s leaves %s out of its image: %s.", d.name(), what, way)
	case d.is("ubuntu"):
		return fmt.Sprintf("Install the modules %s: apt install linux-modules-%s linux-modules-extra-%s", what, k.release, k.release)
	case d.is("debian"):
		return fmt.Sprintf("Install the modules %s: apt install --reinstall linux-image-%s; kernels for clouds leave modules out that linux-image-amd64 has.", what, k.release)
	case d.is("rhel", "fedora", "centos"):
		return fmt.Sprintf("Install the modules %s: dnf install kernel-modules-%s kernel-modules-extra-%s", what, k.release, k.release)
	case d.is("suse", "sles", "opensuse"):
		return "Install the modules " + what + ": zypper install kernel-default, instead of kernel-default-base."
	case d.is("arch"):
		return "Install the modules " + what + ": pacman -S linux, and reboot."
	case d.is("alpine"):
		return "Install the modules " + what + ": apk add linux-lts, and boot that; linux-virt leaves modules out."
	}
	return "Install the modules " + what + " of Linux " + k.release + ", and run depmod."
}

func (k *kernel) fixStale() string {
	if k.isForeign() && !k.distribution.is("arch") {
		return fmt.Sprintf("Install the modules of Linux %s, where it came from, or boot a kernel that is installed. If it was upgraded since boot, reboot.", k.release)
	}
	return "The kernel was upgraded since boot and took the modules of Linux " + k.release + " along: reboot."
}

func fixBlocked(module string, by Evidence) string {
	if by.Source == "/proc/cmdline" {
		return fmt.Sprintf("Take %s out of %s on the kernel's command line, and reboot.", module, strings.SplitN(by.Value, "=", 2)[0])
	}
	if strings.HasPrefix(by.Value, "blacklist") {
		return fmt.Sprintf("Remove %q from %s, or load it by name at boot (/etc/modules-load.d/ipsec.conf); now: modprobe %s", by.Value, by.Source, module)
	}
	return fmt.Sprintf("Remove %q from %s, where someone did not want %s to be loaded: ask why.", by.Value, by.Source, module)
}

// fixOlder: another release of the kernel has what this one has not.
func (k *kernel) fixOlder(since version) string {
	wanted := "Linux " + since.String() + " or later"
	_, isImmutable := k.immutableWay()
	d := k.distribution
	switch {
	case k.container != "":
		return "Boot the host with " + wanted + "."
	case isImmutable:
		return "Take a release of " + d.name() + " with " + wanted + "."
	case d.is("ubuntu"):
		return fmt.Sprintf("Boot %s: apt install linux-generic-hwe-%s, or a newer release of Ubuntu.", wanted, d.Version)
	case d.is("debian") && d.Codename != "":
		return fmt.Sprintf("Boot %s: apt install -t %s-backports linux-image-amd64 (or -arm64), or a newer release of Debian.", wanted, d.Codename)
	case d.is("rhel", "fedora", "centos"):
		return "Boot " + wanted + ", or a newer minor release, which may have taken it over: dnf upgrade kernel."
	case d.is("suse", "sles", "opensuse"):
		return "Boot " + wanted + ", or a newer service pack, which may have taken it over: zypper update kernel-default."
	case d.is("arch"):
		return "Boot " + wanted + ": pacman -Syu, and reboot."
	}
	return "Boot " + wanted + "."
}
