package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"espalier/probe"
	"espalier/probe/firewall"
)

const keyText = "492e8ffe718a95a00c1893ea61afc64997f4732848ccfe6ea07db483175cb18de9ae411a"

// host is one with something to leave out everywhere.
func host() probe.System {
	var config bytes.Buffer
	zip := gzip.NewWriter(&config)
	io.WriteString(zip, "CONFIG_XFRM_OFFLOAD=y\n# CONFIG_MLX5_EN_IPSEC is not set\nCONFIG_CMDLINE=\"password="+keyText+"\"\nCONFIG_CRYPTO_GCM=m\nCONFIG_EXT4_FS=y\n")
	zip.Close()
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	return probe.System{
		Root: fstest.MapFS{
			"etc/os-release":                         file("ID=debian\n"),
			"proc/version":                           file("Linux version 6.12.0\n"),
			"proc/config.gz":                         {Data: config.Bytes()},
			"proc/modules":                           file("esp4_offload 20480 0 - Live 0xffffffffc0a00000\nsecret_driver 1 0 - Live 0x0\nmlx5_core 2445312 1 mlx5_ib, Live 0xffffffffc0b00000\n"),
			"proc/crypto":                            file("name : gcm(aes)\n"),
			"proc/net/xfrm_stat":                     file("XfrmInError 0\n"),
			"proc/cmdline":                           file("root=/dev/sda1 password=" + keyText),
			"proc/sys/net/ipv4/conf/p4p1/rp_filter":  file("1\n"),
			"proc/sys/net/ipv4/conf/p4p1/forwarding": file("1\n"),
		},
		Network: network{},
		Log: func() ([]string, error) {
			return []string{
				"mlx5_core 0000:3b:00.0 p4p1: mlx5e: IPSec ESP acceleration enabled",
				"usb 1-1: new device",
				`audit: type=1309 audit(1.2:3): argc=20 a0="ip" a1="xfrm" a2="state" a9="0x` + keyText + `"`,
				"systemd[1]: xfrm-up.sh: aead 0x" + keyText,
			}, nil
		},
	}
}

// network has one device. What is not asked of it is not there.
type network struct{ probe.Network }

func (network) Links() ([]probe.Link, error) {
	return []probe.Link{{Index: 2, Name: "p4p1", MTU: 1500}}, nil
}
func (network) Driver(string) (probe.Driver, error) { return probe.Driver{Name: "mlx5_core"}, nil }
func (network) Features(string) (map[string]probe.Feature, error) {
	return map[string]probe.Feature{"esp-hw-offload": {Known: true, On: true, Fixed: true}}, nil
}
func (network) Devlink() ([]probe.Devlink, error) { return nil, errors.ErrUnsupported }
func (network) Chains() ([]firewall.Chain, error) {
	rule := firewall.Rule{Match: []firewall.Match{{What: "ip saddr", In: []string{keyText}}}, Verdict: "drop"}
	return []firewall.Chain{{Family: "inet", Table: "filter", Name: "input", Hook: "input", Drops: true, Rules: []firewall.Rule{rule}}}, nil
}
func (network) Counters(string) (map[string]uint64, error) { return nil, fs.ErrPermission }

// unpack gives the files of an archive.
func unpack(t *testing.T, archive io.Reader) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || h.Mode != 0o600 {
			t.Errorf("%s: %v, mode %o", h.Name, err, h.Mode)
		}
		files[strings.TrimPrefix(h.Name, "espalier-bundle/")] = string(text)
	}
}

func TestHost(t *testing.T) {
	var b Bundle
	b.AddJSON("doctor.json", "espalier doctor -o json", map[string]bool{"ok": true}, nil)
	b.AddJSON("ipsec/kernel-states.json", "espalier xfrm -o json state list", nil, fs.ErrPermission)
	b.AddHost(host())
	var archive bytes.Buffer
	if err := b.Write(&archive, "host db1", time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, &archive)
	for name, want := range map[string]string{
		"doctor.json":     "{\n  \"ok\": true\n}\n",
		"os-release":      "ID=debian\n",
		"kernel/version":  "Linux version 6.12.0\n",
		"kernel/config":   "CONFIG_XFRM_OFFLOAD=y\n# CONFIG_MLX5_EN_IPSEC is not set\nCONFIG_CRYPTO_GCM=m\n",
		"kernel/modules":  "esp4_offload 20480 0 -\nmlx5_core 2445312 1 mlx5_ib,\n",
		"kernel/log":      "mlx5_core 0000:3b:00.0 p4p1: mlx5e: IPSec ESP acceleration enabled\nsystemd[1]: xfrm-up.sh: aead 0x<hidden>\n",
		"ipsec/xfrm_stat": "XfrmInError 0\n",
		"net/nft-chains":  "inet filter input hook \"input\" devices [] drops by policy true, 1 rules\n",
		"net/sysctl":      "net/ipv4/conf/p4p1/rp_filter = 1\n",
	} {
		if files[name] != want {
			t.Errorf("%s is %q, want %q", name, files[name], want)
		}
	}
	for _, want := range []string{`"Name": "p4p1"`, `"esp-hw-offload": "on [fixed]"`, `"Name": "mlx5_core"`, `"permission denied"`} {
		if !strings.Contains(files["net/devices.json"], want) {
			t.Errorf("no %s in %s", want, files["net/devices.json"])
		}
	}
	manifest := files["MANIFEST"]
	for name := range files {
		if name != "MANIFEST" && !strings.Contains(manifest, "  "+name+" ") {
			t.Errorf("%s is not in the manifest", name)
		}
	}
	for _, want := range []string{"host db1", "espalier xfrm -o json state list: permission denied", "/proc/sys/kernel/tainted: file does not exist", "keys of SAs", "addresses"} {
		if !strings.Contains(manifest, want) {
			t.Errorf("no %q in\n%s", want, manifest)
		}
	}
	for name, text := range files {
		if strings.Contains(text, keyText[:16]) || strings.Contains(text, "ffffffffc0") {
			t.Errorf("%s holds a secret:\n%s", name, text)
		}
	}
}

// Nothing is overwritten, not even by way of a link, and others cannot read the file.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	f, err := Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if _, err := Create(path); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
