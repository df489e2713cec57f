package probe

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(text))
	z.Close()
	return b.String()
}

func TestParseConfig(t *testing.T) {
	const good = "# Linux/x86 6.12\nCONFIG_XFRM=y\nCONFIG_ESP=m\n# CONFIG_OFF is not set\nCONFIG_NAME=\"a b\"\nCONFIG_XFRM=m\n"
	for name, text := range map[string]string{"plain": good, "gzip": zipped(good), "DOS": strings.ReplaceAll(good, "\n", "\r\n")} {
		values, err := parseConfig(strings.NewReader(text))
		c := config{"/x", values, nil}
		if err != nil || c.value("XFRM") != "m" || c.value("ESP") != "m" || c.value("OFF") != "n" || c.value("NAME") != "a b" || c.value("OTHER") != "n" {
			t.Errorf("%s: %v %v", name, values, err)
		}
	}
	whole := zipped(strings.Repeat(good, 1000))
	for name, text := range map[string]string{
		"empty": "", "no configuration": "hello\n", "binary": "\x7fELF\x00\x01", "half a gzip": whole[:len(whole)/2], "gzip of nothing": "\x1f\x8b",
		"a bomb": zipped(strings.Repeat("CONFIG_A=y\n", maxConfig/8)), "only comments": "# CONFIG_A\n", "one endless line": strings.Repeat("x", maxConfig+10),
	} {
		if values, err := parseConfig(strings.NewReader(text)); err == nil {
			t.Errorf("%s: read as %d options", name, len(values))
		}
	}
}

// TestReadConfig: the first file that is a configuration serves; others that are broken only count
// when there is none.
func TestReadConfig(t *testing.T) {
	const yes = "CONFIG_XFRM=y\n"
	for name, c := range map[string]struct {
		files  map[string]string
		source string
		err    error
	}{
		"the kernel's own first": {map[string]string{"proc/config.gz": zipped(yes), configFile: yes}, "/proc/config.gz", nil},
		"broken":                 {map[string]string{"proc/config.gz": "\x1f\x8bgarbage", configFile: yes}, "/" + configFile, nil},
		"denied":                 {map[string]string{"proc/config.gz": "denied", "lib/modules/" + release + "/config": yes}, "/lib/modules/" + release + "/config", nil},
		"of another kernel":      {map[string]string{"boot/config-6.1": yes}, "", nil},
		"only denied":            {map[string]string{configFile: "denied"}, "", fs.ErrPermission},
		"a build tree":           {map[string]string{"lib/modules/" + release + "/build/.config": yes}, "/lib/modules/" + release + "/build/.config", nil},
		"ostree":                 {map[string]string{"usr/lib/ostree-boot/config-" + release: yes}, "/usr/lib/ostree-boot/config-" + release, nil},
	} {
		got := readConfig(files(c.files), release)
		if got.source != c.source || (got.err == nil) != (c.source != "") || c.err != nil && !errors.Is(got.err, c.err) {
			t.Errorf("%s: %q %v", name, got.source, got.err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{"CONFIG_A=y\n", "# CONFIG_A is not set\n", "CONFIG_=\n", "CONFIG_A=\"\"\"\n", zipped("CONFIG_A=m\n"), "\x1f\x8b\x08"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		values, err := parseConfig(bytes.NewReader(text))
		if (err == nil) != (len(values) > 0) {
			t.Errorf("%d options, %v", len(values), err)
		}
	})
}

// FuzzKernel: whatever stands in the files, each question is answered, with a reason.
func FuzzKernel(f *testing.F) {
	f.Add("6.12.0\n", "CONFIG_INET_ESP=m\n", "a/esp4.ko:\n", "blacklist esp4\n", "esp4 1 0 - Live 0x0 (OE)\n", "0 T ip_rcv\n", "ID=debian\n")
	f.Add("6.1", "", "esp4.ko", "install x", "x", "", "ID_LIKE=\"a b\"")
	f.Add("../../etc", "CONFIG_MODULES=y", ":", "\\\n", " ", "x\x00", "=")
	f.Fuzz(func(t *testing.T, release, config, dep, modprobe, loaded, symbols, osRelease string) {
		root := fstest.MapFS{"proc/sys/kernel/osrelease": {Data: []byte(release)}}
		for name, text := range map[string]string{
			"proc/config.gz": config, "lib/modules/" + strings.TrimSpace(release) + "/modules.dep": dep, "etc/modprobe.d/x.conf": modprobe,
			"proc/cmdline": modprobe, "proc/modules": loaded, "proc/kallsyms": symbols, "etc/os-release": osRelease, "sys/kernel/security/lockdown": osRelease,
		} {
			if fs.ValidPath(name) {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
		}
		k := readKernel(root)
		for _, l := range []Layer{k.layer(), k.driverLayer([]string{"mlx5_core"})} {
			for _, c := range l.Checks {
				if c.Why == "" && c.ID != "kernel.release" || c.Title == "" || c.Answer == No && c.Weight == Required && c.Fix == "" {
					t.Errorf("%+v", c)
				}
			}
		}
	})
}

func FuzzLog(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;mlx5_core 0000:3b:00.0: ready\n SUBSYSTEM=pci\n"), "<6>[    5.140900] mlx5_core 0000:3b:00.0: ready\n")
	f.Add([]byte(";"), "<[")
	f.Fuzz(func(t *testing.T, record []byte, line string) {
		if text, ok := parseKmsg(record); ok && (text == "" || strings.Contains(text, "\n")) {
			t.Errorf("%q", text)
		}
		parseSyslog(line)
	})
}
