package probe

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

const release = "6.12.0-test"

// files is a root with those files; a text of "denied" cannot be read.
func files(texts map[string]string) fs.FS {
	m := make(fstest.MapFS)
	for name, text := range texts {
		m[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return deniedFS{m, texts}
}

type deniedFS struct {
	fs.FS
	texts map[string]string
}

func (d deniedFS) Open(name string) (fs.File, error) {
	if d.texts[name] == "denied" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return d.FS.Open(name)
}

// with is a copy of base with more files; those of an empty text are taken out.
func with(base map[string]string, more ...string) map[string]string {
	all := make(map[string]string)
	for name, text := range base {
		all[name] = text
	}
	for i := 0; i < len(more); i += 2 {
		if all[more[i]] = more[i+1]; more[i+1] == "" {
			delete(all, more[i])
		}
	}
	return all
}

const (
	configFile = "boot/config-" + release
	dep        = "lib/modules/" + release + "/modules.dep"
	builtin    = "lib/modules/" + release + "/modules.builtin"
	offload    = "lib/modules/" + release + "/kernel/net/ipv4/esp4_offload.ko.xz"
)

// modular is a kernel with everything, in modules.
var modular = map[string]string{
	"proc/sys/kernel/osrelease": release + "\n",
	"etc/os-release":            "ID=debian\nPRETTY_NAME=\"Debian\"\n",
	configFile: `CONFIG_MODULES=y
CONFIG_XFRM=y
CONFIG_XFRM_OFFLOAD=y
CONFIG_XFRM_USER=m
CONFIG_INET_ESP=m
CONFIG_INET_ESP_OFFLOAD=m
CONFIG_INET6_ESP=m
CONFIG_INET6_ESP_OFFLOAD=m
CONFIG_CRYPTO_GCM=m
CONFIG_CRYPTO_CTR=y
CONFIG_CRYPTO_SEQIV=m
CONFIG_MLX5_EN_IPSEC=y
`,
	dep: `kernel/net/ipv4/esp4.ko.xz: kernel/net/xfrm/xfrm_algo.ko.xz
kernel/net/ipv4/esp4_offload.ko.xz: kernel/net/ipv4/esp4.ko.xz
kernel/net/ipv6/esp6.ko.xz:
kernel/net/ipv6/esp6_offload.ko.xz:
kernel/net/xfrm/xfrm_user.ko.xz:
kernel/crypto/gcm.ko.xz:
kernel/crypto/seqiv.ko.xz:
`,
	builtin: "kernel/crypto/ctr.ko\n",
	"lib/modules/" + release + "/kernel/net/ipv4/esp4.ko.xz": "x",
	offload: "x",
	"lib/modules/" + release + "/kernel/net/ipv6/esp6.ko.xz":         "x",
	"lib/modules/" + release + "/kernel/net/ipv6/esp6_offload.ko.xz": "x",
	"lib/modules/" + release + "/kernel/net/xfrm/xfrm_user.ko.xz":    "x",
	"lib/modules/" + release + "/kernel/crypto/gcm.ko.xz":            "x",
	"lib/modules/" + release + "/kernel/crypto/seqiv.ko.xz":          "x",
}

func checkOf(t *testing.T, l Layer, id string) Check {
	t.Helper()
	for _, c := range l.Checks {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no check %s in layer %s", id, l.Name)
	return Check{}
}

// TestModuleStates: for an option that is a module, where the module is decides.
func TestModuleStates(t *testing.T) {
	const id = "kernel.inet-esp-offload"
	for _, c := range []struct {
		name   string
		files  map[string]string
		want   Answer
		why    string
		source string // of the last evidence
		fix    string // a part of it
	}{
		{"as installed", modular, Yes, "module esp4_offload is loaded when needed", "/" + offload, ""},
		{"loaded", with(modular, "proc/modules", "esp4_offload 16384 0 - Live 0x0\n", "proc/sys/kernel/modules_disabled", "1\n"), Yes, "module esp4_offload is loaded", "/proc/modules", ""},
		{"being unloaded", with(modular, "proc/modules", "esp4_offload 16384 0 - Unloading 0x0\n", "proc/sys/kernel/modules_disabled", "1\n"), No, "is not loaded, and no module can be", "/proc/sys/kernel/modules_disabled", "/etc/modules-load.d"},
		{"disabled", with(modular, "proc/sys/kernel/modules_disabled", "1\n"), No, "is not loaded, and no module can be", "/proc/sys/kernel/modules_disabled", "/etc/modules-load.d"},
		{"builtin after all", with(modular, builtin, "kernel/net/ipv4/esp4_offload.ko\n", dep, "a.ko:\n"), Yes, "built in", "/" + builtin, ""},
		{"not listed", with(modular, dep, "kernel/crypto/gcm.ko.xz:\n"), No, "module esp4_offload is not installed", "/" + dep, "linux-image-" + release},
		{"listed, no file", with(modular, offload, ""), No, "module esp4_offload is not installed", "/" + offload, "linux-image-" + release},
		{"list kept secret", with(modular, dep, "denied"), Unknown, "modules.dep cannot be read", "/" + dep, ""},
		{"blacklisted", with(modular, "etc/modprobe.d/b.conf", "# no\nblacklist esp4-offload\n"), No, "kept from loading by /etc/modprobe.d/b.conf", "/etc/modprobe.d/b.conf", "modprobe esp4_offload"},
		{"install false", with(modular, "usr/lib/modprobe.d/b.conf", "install esp4_offload \\\n /usr/bin/false\nblacklist esp4_offload\n"), No, "kept from loading", "/usr/lib/modprobe.d/b.conf", "ask why"},
		{"install by a command", with(modular, "etc/modprobe.d/b.conf", "install esp4_offload /sbin/modprobe --ignore-install esp4_offload\n"), Yes, "loaded when needed", "/" + offload, ""},
		{"hidden by a file in etc", with(modular, "usr/lib/modprobe.d/b.conf", "blacklist esp4_offload\n", "etc/modprobe.d/b.conf", "#\n"), Yes, "loaded when needed", "/" + offload, ""},
		{"no .conf", with(modular, "etc/modprobe.d/b.conf.bak", "blacklist esp4_offload\n"), Yes, "loaded when needed", "/" + offload, ""},
		{"on the command line", with(modular, "proc/cmdline", "ro module_blacklist=dccp,esp4_offload quiet\n"), No, "kept from loading by /proc/cmdline", "/proc/cmdline", "module_blacklist on the kernel's command line"},
		{"in a container", with(modular, dep, "kernel/crypto/gcm.ko.xz:\n", ".dockerenv", "x"), Unknown, "not seen from a container", "/" + dep, ""},
	} {
		got := checkOf(t, readKernel(files(c.files)).layer(), id)
		if got.Answer != c.want || !strings.Contains(got.Why, c.why) || !strings.Contains(got.Fix, c.fix) || (c.fix == "") != (got.Fix == "") {
			t.Errorf("%s: %+v, want %s because %s, fix %q", c.name, got, c.want, c.why, c.fix)
		}
		if last := got.Evidence[len(got.Evidence)-1]; last.Source != c.source {
			t.Errorf("%s: evidence %+v, want %s", c.name, last, c.source)
		}
	}
}

// TestStaleModules: a kernel whose modules an upgrade has removed, and one that was never installed.
func TestStaleModules(t *testing.T) {
	gone := map[string]string{"proc/sys/kernel/osrelease": release, configFile: modular[configFile], "etc/os-release": "ID=arch\n", "lib/modules/6.13.0/modules.dep": ""}
	c := checkOf(t, readKernel(files(gone)).layer(), "kernel.inet-esp")
	if c.Answer != No || !strings.Contains(c.Fix, "reboot") || !strings.Contains(c.Why, "nothing of Linux "+release) {
		t.Errorf("upgraded: %+v", c)
	}
	delete(gone, configFile)
	gone["proc/config.gz"] = modular[configFile]
	gone["etc/os-release"] = "ID=debian\n"
	c = checkOf(t, readKernel(files(gone)).layer(), "kernel.inet-esp")
	if c.Answer != No || !strings.Contains(c.Fix, "where it came from") {
		t.Errorf("from outside: %+v", c)
	}
	c = checkOf(t, readKernel(files(with(gone, "run/systemd/container", "lxc\n"))).layer(), "kernel.inet-esp")
	if c.Answer != Unknown || c.Fix != "" {
		t.Errorf("in a container: %+v", c)
	}
}

// TestWithoutConfig: no configuration can be read, and other things show what the kernel has, or
// nothing does.
func TestWithoutConfig(t *testing.T) {
	bare := map[string]string{"proc/sys/kernel/osrelease": release, configFile: "denied"}
	all := with(modular, configFile, "", "proc/config.gz", "denied")
	const kallsyms = "0000000000000000 T ip_rcv\n0000000000000000 t esp4_gro_receive\t[esp4_offload]\n0000000000000000 T xfrm_state_lookup\n"
	for _, c := range []struct {
		name, id string
		files    map[string]string
		want     Answer
		why      string
	}{
		{"nothing at all", "kernel.xfrm-offload", bare, Unknown, "permission denied"},
		{"nothing at all", "kernel.inet-esp", bare, Unknown, "permission denied"},
		{"statistics", "kernel.xfrm", with(bare, "proc/net/xfrm_stat", "x"), Yes, "built in"},
		{"statistics say nothing of offload", "kernel.xfrm-offload", with(bare, "proc/net/xfrm_stat", "x"), Unknown, "permission denied"},
		{"a module that is there", "kernel.inet-esp-offload", all, Yes, "loaded when needed"},
		{"a module that needs it", "kernel.xfrm-offload", all, Yes, "would not be there without"},
		{"a module that is built in", "kernel.crypto-ctr", all, Yes, "built in"},
		{"a loaded one", "kernel.inet-esp", with(bare, "proc/modules", "esp4 1 0 - Live 0x0\n"), Yes, "loaded"},
		{"functions", "kernel.inet-esp-offload", with(bare, "proc/kallsyms", kallsyms), Yes, "has its functions"},
		{"no functions", "kernel.xfrm-offload", with(bare, "proc/kallsyms", kallsyms), No, "kernel built without XFRM_OFFLOAD"},
		{"no functions, perhaps a module", "kernel.inet-esp", with(bare, "proc/kallsyms", kallsyms), Unknown, "permission denied"},
		{"no functions, no module", "kernel.inet-esp", with(all, dep, "a.ko:\n", "proc/kallsyms", kallsyms), No, "kernel built without INET_ESP"},
		{"no functions, a module without its file", "kernel.inet-esp-offload", with(all, offload, "", "proc/kallsyms", "0 T ip_rcv\n"), No, "module esp4_offload is not installed"},
		{"functions of half a list", "kernel.xfrm-offload", with(bare, "proc/kallsyms", "0 T xfrm_state_lookup\n"), Unknown, ""},
		{"functions kept secret", "kernel.xfrm-offload", with(bare, "proc/kallsyms", "denied"), Unknown, ""},
	} {
		got := checkOf(t, readKernel(files(c.files)).layer(), c.id)
		if got.Answer != c.want || !strings.Contains(got.Why, c.why) {
			t.Errorf("%s: %+v, want %s because %s", c.name, got, c.want, c.why)
		}
		if got.Answer != Unknown && len(got.Evidence) == 0 {
			t.Errorf("%s: %s without evidence", c.name, got.Answer)
		}
	}
}

// TestDriver: MLX5_EN_IPSEC is asked for where the driver is mlx5_core, in all its forms.
func TestDriver(t *testing.T) {
	off := with(modular, configFile, strings.Replace(modular[configFile], "CONFIG_MLX5_EN_IPSEC=y", "# CONFIG_MLX5_EN_IPSEC is not set", 1))
	foreign := with(off, "proc/modules", "mlx5_core 2101248 0 - Live 0x0 (OE)\n")
	const innova = "CONFIG_MLX5_FPGA_IPSEC=y\n"
	old := map[string]string{"proc/sys/kernel/osrelease": "4.18.0-348.el8.x86_64\n", "proc/config.gz": modular[configFile]}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  Answer
		why   string
		fix   string
	}{
		{"on", modular, Yes, "built in", ""},
		{"off", off, No, "kernel built without MLX5_EN_IPSEC", "DOCA-Host"},
		{"not mentioned", with(off, configFile, "CONFIG_XFRM=y\n"), No, "kernel built without MLX5_EN_IPSEC", "DOCA-Host"},
		{"the vendor's driver with it", with(foreign, "proc/kallsyms", "0 T ip_rcv\n0 t mlx5e_ipsec_init\t[mlx5_core]\n"), Yes, "functions", ""},
		{"the vendor's driver without", with(foreign, "proc/kallsyms", "0 T ip_rcv\n"), No, "without MLX5_EN_IPSEC", "DOCA-Host"},
		{"the vendor's driver, not seen", with(foreign, "proc/kallsyms", "denied"), Unknown, "permission denied", ""},
		{"Innova", with(modular, configFile, modular[configFile]+innova+"# CONFIG_MLX5_IPSEC is not set\n"), No, "Innova cards only", "CONFIG_MLX5_IPSEC=y CONFIG_MLX5_EN_IPSEC=y"},
		{"Innova and ConnectX", with(modular, configFile, modular[configFile]+innova+"CONFIG_MLX5_IPSEC=y\n"), Yes, "built in", ""},
		{"before Innova had a name, not seen", with(old, "proc/kallsyms", "denied"), Unknown, "before Linux 5.8", ""},
		{"before Innova had a name", with(old, "proc/kallsyms", "0 T ip_rcv\n0 t mlx5e_ipsec_init\t[mlx5_core]\n"), No, "Innova cards only", "CONFIG_MLX5_IPSEC=y"},
		{"before Innova had a name, not loaded", with(old, "proc/kallsyms", "0 T ip_rcv\n"), Unknown, "before Linux 5.8", ""},
		{"taken over later", with(old, "proc/kallsyms", "0 T ip_rcv\n0 t mlx5_ipsec_device_caps\t[mlx5_core]\n"), Yes, "built in", ""},
	} {
		l := readKernel(files(c.files)).driverLayer([]string{"mlx5_core"})
		if got := l.Checks[0]; got.Answer != c.want || got.Weight != Required || !strings.Contains(got.Why, c.why) || !strings.Contains(got.Fix, c.fix) || (c.fix == "") != (got.Fix == "") {
			t.Errorf("%s: %+v, want %s because %s, fix %s", c.name, got, c.want, c.why, c.fix)
		}
	}
	if l := readKernel(files(off)).driverLayer([]string{"virtio_net", ""}); len(l.Checks) != 0 {
		t.Errorf("a driver without an option of its own: %+v", l)
	}
}

// TestFixes: what is missing together is told once, without options that nobody can set.
func TestFixes(t *testing.T) {
	k := readKernel(files(with(modular, configFile, "CONFIG_MODULES=y\nCONFIG_XFRM=y\nCONFIG_XFRM_USER=y\n")))
	fixes := make(map[string]int)
	for _, c := range k.layer().Checks {
		if c.Answer == No && c.Weight != Informs {
			fixes[c.Fix]++
		}
	}
	if len(fixes) != 1 {
		t.Fatalf("%d different fixes of one cause: %v", len(fixes), fixes)
	}
	for fix := range fixes {
		if !strings.Contains(fix, "CONFIG_INET_ESP=y") || !strings.Contains(fix, "CONFIG_INET_ESP_OFFLOAD=y") || strings.Contains(fix, "CONFIG_XFRM_OFFLOAD") || strings.Contains(fix, "CONFIG_CRYPTO") {
			t.Error(fix)
		}
	}
	// However different the distributions, each has words for each lack.
	for _, id := range []string{"debian", "ubuntu", "rhel", "fedora", "centos", "sles", "opensuse", "arch", "talos", "flatcar", "cos", "bottlerocket", "nixos", "alpine", ""} {
		own := with(modular, "etc/os-release", "ID="+id+"\n")
		for name, broken := range map[string]map[string]string{
			"build": with(own, configFile, "CONFIG_MODULES=y\n"), "install": with(own, dep, "a.ko:\n"),
		} {
			l := readKernel(files(broken)).layer()
			for _, c := range l.Checks {
				if c.Answer == No && c.Weight != Informs && c.Fix == "" {
					t.Errorf("%s, %s: nothing is said to do: %+v", id, name, c)
				}
			}
			c := checkOf(t, l, "kernel.inet-esp-offload")
			if c.Answer != No || len(c.Fix) < 20 {
				t.Errorf("%s, %s: %+v", id, name, c)
			}
		}
	}
}

func TestFeatures(t *testing.T) {
	for _, c := range []struct {
		release, kallsyms, id string
		want                  Answer
	}{
		{"4.11.12", "0 T ip_rcv\n", "kernel.crypto-offload", No},
		{"4.12.0", "", "kernel.crypto-offload", Yes},
		{"6.12.0", "", "kernel.packet-offload", Yes},
		{"6.2.0-rc1", "", "kernel.packet-offload", Yes},
		{"6.1.0-56-amd64", "0 T ip_rcv\n", "kernel.packet-offload", No},
		{"6.1.0-56-amd64", "", "kernel.packet-offload", Unknown},
		{"5.14.0-611.el9", "0 T ip_rcv\n0 T xfrm_dev_policy_add\n", "kernel.packet-offload", Yes},
		{"6.9.0", "0 T ip_rcv\n", "kernel.sa-direction", Unknown}, // no function came with it
		{"6.10.1", "", "kernel.sa-direction", Yes},
		{"6.12.117", "0 T ip_rcv\n0 T xfrm_input_state_lookup\n", "kernel.pcpu", Yes},
		{"6.12.0", "0 T ip_rcv\n", "kernel.pcpu", No},
		{"6.13.0", "0 T ip_rcv\n", "kernel.pcpu", Yes},
		{"6.10.14", "0 T ip_rcv\n", "kernel.nat-keepalive", No},
		{"6.11.0", "0 T ip_rcv\n", "kernel.nat-keepalive", Yes},
		{"6.18.44-fc", "", "kernel.pcpu", Yes},
		{"custom", "", "kernel.pcpu", Unknown},
	} {
		f := map[string]string{"proc/sys/kernel/osrelease": c.release, "proc/kallsyms": c.kallsyms}
		if got := checkOf(t, readKernel(files(f)).layer(), c.id); got.Answer != c.want || got.Weight != Informs || (got.Fix == "") != (got.Answer != No) {
			t.Errorf("%s %s: %+v, want %s", c.release, c.id, got, c.want)
		}
	}
}

func TestLoadingAndLockdown(t *testing.T) {
	for _, c := range []struct {
		name              string
		files             map[string]string
		loading, lockdown Answer
		why               string // of either
	}{
		{"none", with(modular, "sys/kernel/security/lockdown", "[none] integrity confidentiality\n"), Yes, Yes, "not locked down"},
		{"Secure Boot", with(modular, "sys/kernel/security/lockdown", "none [integrity] confidentiality\n", "sys/module/module/parameters/sig_enforce", "Y\n"), Yes, No, "only signed ones"},
		{"garbage", with(modular, "sys/kernel/security/lockdown", "[", configFile, "CONFIG_SECURITY_LOCKDOWN_LSM=y\n"), No, Unknown, "names no state"},
		{"built for signed modules", with(modular, configFile, modular[configFile]+"CONFIG_MODULE_SIG_FORCE=y\n"), Yes, Yes, "only signed ones"},
		{"disabled", with(modular, "proc/sys/kernel/modules_disabled", "1"), No, Yes, "until the next boot"},
		{"no modules", with(modular, configFile, "# CONFIG_MODULES is not set\n"), No, Yes, "built without modules"},
	} {
		l := readKernel(files(c.files)).layer()
		loading, lockdown := checkOf(t, l, "kernel.module-loading"), checkOf(t, l, "kernel.lockdown")
		if loading.Answer != c.loading || lockdown.Answer != c.lockdown || !strings.Contains(loading.Why+"|"+lockdown.Why, c.why) {
			t.Errorf("%s: %+v\n%+v", c.name, loading, lockdown)
		}
	}
}

func TestDistribution(t *testing.T) {
	for text, want := range map[string]distribution{
		"ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n":                {ID: "debian", Pretty: "Debian GNU/Linux 12 (bookworm)", Version: "12"},
		"ID='rocky'\nID_LIKE=\"rhel centos fedora\"\n# ID=other\n\nbroken\nPRETTY_NAME=\"a \\\"b\\\"\"": {ID: "rocky", Like: []string{"rhel", "centos", "fedora"}, Pretty: `a "b"`},
		"ID=\"\nVARIANT_ID=coreos": {ID: `"`, Variant: "coreos"},
	} {
		for _, file := range []string{"etc/os-release", "usr/lib/os-release"} {
			got, err := readDistribution(files(map[string]string{file: text}))
			if err != nil || got.ID != want.ID || got.Pretty != want.Pretty || got.Version != want.Version || got.Variant != want.Variant || strings.Join(got.Like, " ") != strings.Join(want.Like, " ") {
				t.Errorf("%q: %+v %v, want %+v", text, got, err, want)
			}
		}
	}
	if _, err := readDistribution(files(nil)); err == nil {
		t.Error("no os-release, and no error")
	}
	if d := (distribution{ID: "rocky", Like: []string{"rhel"}}); !d.is("suse", "rhel") || !d.is("rocky") || d.is("debian") {
		t.Error("is")
	}
}

// TestContainer: a container is told from the host, and from a VM that was made of a container's image.
func TestContainer(t *testing.T) {
	const disk, layers = "22 27 0:21 / /proc rw - proc proc rw\n27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n", "27 1 0:40 / / rw - overlay overlay rw\n"
	for _, c := range []struct{ name, file, text, pids, mounts, want string }{
		{"the host", "etc/hostname", "x", initialPIDs, disk, ""},
		{"docker", ".dockerenv", "", "pid:[4026532177]", layers, "docker"},
		{"docker with the host's processes", ".dockerenv", "", initialPIDs, layers, "docker"},
		{"a VM of an image", ".dockerenv", "", initialPIDs, disk, ""},
		{"not known which", ".dockerenv", "", "", "", "docker"},
		{"nspawn", "run/systemd/container", "systemd-nspawn\n", initialPIDs, disk, "systemd-nspawn"},
		{"by its processes alone", "etc/hostname", "x", "pid:[4026532177]", disk, "with processes of its own"},
	} {
		root := fstest.MapFS{
			c.file: {Data: []byte(c.text)}, "proc/self/mountinfo": {Data: []byte(c.mounts)},
			"proc/self/ns/pid": {Data: []byte(c.pids), Mode: fs.ModeSymlink},
		}
		if got, by := readContainer(root); got != c.want || by.Source == "" {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
