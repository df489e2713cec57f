package bundle

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"espalier/probe"
)

// AddHost puts in what is needed of a host.
func (b *Bundle) AddHost(sys probe.System) {
	b.addFile(sys, "etc/os-release", "os-release", nil)
	b.addFile(sys, "proc/version", "kernel/version", nil)
	b.addConfig(sys)
	b.addFile(sys, "proc/modules", "kernel/modules", moduleLine)
	b.addFile(sys, "proc/sys/kernel/tainted", "kernel/tainted", nil)
	b.addFile(sys, "sys/kernel/security/lockdown", "kernel/lockdown", nil)
	b.addFile(sys, "proc/crypto", "kernel/crypto", nil)
	b.addLog(sys)
	b.addFile(sys, "proc/net/xfrm_stat", "ipsec/xfrm_stat", nil)
	b.addSysctls(sys)
	b.addDevices(sys)
}

// addFile puts a file of the host in, or the lines of it that keep returns; all with nil.
func (b *Bundle) addFile(sys probe.System, from, name string, keep func(line string) (string, bool)) {
	data, err := fs.ReadFile(sys.Root, from)
	if err != nil {
		b.Missing("/"+from, reason(err))
		return
	}
	b.Add(name, "/"+from, lines(string(data), keep))
}

// lines are those that keep returns.
func lines(text string, keep func(line string) (string, bool)) []byte {
	if keep == nil {
		return []byte(text)
	}
	var kept bytes.Buffer
	for line := range strings.Lines(text) {
		if line, ok := keep(strings.TrimSuffix(line, "\n")); ok {
			kept.WriteString(line + "\n")
		}
	}
	return kept.Bytes()
}

// reason leaves out the operation and the path, which stand there already.
func reason(err error) error {
	var e *fs.PathError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// config are the options of the kernel's that matter, whatever they are.
var config = regexp.MustCompile(`^(# )?CONFIG_(XFRM|INET6?_(ESP|XFRM|AH)|NET_KEY|MLX5|NETDEVSIM|BONDING|VLAN_8021Q|MODULES|IKCONFIG|SECURITY_LOCKDOWN|` +
	`CRYPTO_(GCM|GHASH|AES|SEQIV|ECHAINIV|AUTHENC|CTR|NULL|CRYPTD|SIMD))\w*[ =]`)

// addConfig takes the first of the places where the kernel's configuration may be.
func (b *Bundle) addConfig(sys probe.System) {
	release, _ := fs.ReadFile(sys.Root, "proc/sys/kernel/osrelease")
	kernel := strings.TrimSpace(string(release))
	places := []string{"proc/config.gz", "boot/config-" + kernel, "lib/modules/" + kernel + "/config"}
	for _, from := range places {
		data, err := fs.ReadFile(sys.Root, from)
		if err == nil && path.Ext(from) == ".gz" {
			data, err = gunzip(data)
		}
		if err != nil {
			continue
		}
		b.Add("kernel/config", "/"+from, lines(string(data), func(line string) (string, bool) { return line, config.MatchString(line) }))
		return
	}
	b.Missing("/"+strings.Join(places, ", /"), errors.New("none of them can be read"))
}

func gunzip(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

var module = regexp.MustCompile(`^(xfrm|esp|ah[46]|mlx|gcm|ghash|aes|seqiv|echainiv|authenc|ctr|crypto|cryptd|bonding|8021q|bridge|openvswitch|veth|tun|nf_|nft_|netdevsim|labnic|af_key|.*ipsec)`)

// moduleLine keeps a line of /proc/modules, without the module's address.
func moduleLine(line string) (string, bool) {
	if !module.MatchString(line) {
		return "", false
	}
	fields := strings.Fields(line)
	return strings.Join(fields[:min(len(fields), 4)], " "), true
}

var (
	logLine = regexp.MustCompile(`(?i)mlx|xfrm|ipsec|\besp[46]?\b|labnic|netdevsim|lockdown`)
	// audit records hold command lines, with the keys in them, where no auditd takes them.
	auditLine = regexp.MustCompile(`(?i)\baudit|\bargc=|execve`)
	hexRun    = regexp.MustCompile(`[0-9a-fA-F]{16,}`)
)

// addLog takes the lines of the kernel's log that are about IPsec or its NICs.
func (b *Bundle) addLog(sys probe.System) {
	const source = "dmesg"
	if sys.Log == nil {
		return
	}
	log, err := sys.Log()
	if err != nil {
		b.Missing(source, err)
		return
	}
	var kept strings.Builder
	for _, line := range log {
		if logLine.MatchString(line) && !auditLine.MatchString(line) {
			fmt.Fprintln(&kept, hexRun.ReplaceAllString(line, "<hidden>"))
		}
	}
	b.Add("kernel/log", source, []byte(kept.String()))
}

// addSysctls lists switches as sysctl prints them.
func (b *Bundle) addSysctls(sys probe.System) {
	var text strings.Builder
	for _, pattern := range []string{
		"proc/sys/net/ipv4/conf/*/disable_xfrm", "proc/sys/net/ipv4/conf/*/disable_policy", "proc/sys/net/ipv4/conf/*/rp_filter",
		"proc/sys/net/ipv6/conf/*/disable_policy", "proc/sys/net/core/xfrm_*", "proc/sys/net/ipv4/xfrm4_gc_thresh",
	} {
		found, _ := fs.Glob(sys.Root, pattern) // the patterns are well formed
		for _, name := range found {
			if value, err := fs.ReadFile(sys.Root, name); err == nil {
				fmt.Fprintf(&text, "%s = %s\n", strings.TrimPrefix(name, "proc/sys/"), bytes.TrimSpace(value))
			}
		}
	}
	b.Add("net/sysctl", "/proc/sys/net", []byte(text.String()))
}

// device is what ethtool says of one.
type device struct {
	probe.Link
	Driver   *probe.Driver     `json:",omitempty"`
	Features map[string]string `json:",omitempty"`
	Counters map[string]uint64 `json:",omitempty"`
	Problems []string          `json:",omitempty"`
}

// addDevices lists the network devices, and what is around them.
func (b *Bundle) addDevices(sys probe.System) {
	if sys.Network == nil {
		return
	}
	links, err := sys.Network.Links()
	var devices []device
	for _, l := range links {
		devices = append(devices, ask(sys.Network, l))
	}
	b.AddJSON("net/devices.json", "ip -d link; ethtool -i, -k, -S", devices, err)
	devlink, err := sys.Network.Devlink()
	b.AddJSON("net/devlink.json", "devlink dev eswitch show; devlink port show", devlink, err)
	b.addChains(sys.Network)
}

// addChains lists the chains of nftables, without their rules.
func (b *Bundle) addChains(n probe.Network) {
	const source = "nft list chains"
	chains, err := n.Chains()
	if err != nil {
		b.Missing(source, err)
		return
	}
	var text strings.Builder
	for _, c := range chains {
		fmt.Fprintf(&text, "%s hook %q devices %q drops by policy %v, %d rules\n", c.String(), c.Hook, c.Devices, c.Drops, len(c.Rules))
	}
	b.Add("net/nft-chains", source, []byte(text.String()))
}

func ask(n probe.Network, l probe.Link) device {
	d := device{Link: l, Features: make(map[string]string)}
	note := func(err error) {
		if err != nil {
			d.Problems = append(d.Problems, err.Error())
		}
	}
	driver, err := n.Driver(l.Name)
	if err == nil {
		d.Driver = &driver
	}
	note(err)
	features, err := n.Features(l.Name)
	note(err)
	for name, f := range features {
		d.Features[name] = f.String()
	}
	d.Counters, err = n.Counters(l.Name)
	note(err)
	return d
}
