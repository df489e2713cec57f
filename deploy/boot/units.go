package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Names of units in the initial network namespace.
const (
	guardUnit     = "espalier-guard.service"
	rotateTimer   = "espalier-rotate.timer"
	rotateService = "espalier-rotate.service"
	encapUnit     = "espalier-encap-%d.service"
)

// unitName is the name of a unit in this place: units of other namespaces stand beside it.
func (p *Place) unitName(name string) string {
	if p.Namespace == "" {
		return name
	}
	base, suffix, _ := strings.Cut(name, ".")
	return base + "-" + filepath.Base(p.Namespace) + "." + suffix
}

// install writes a unit and enables it, as `systemctl enable` does; wantedBy "" leaves that out. It
// reports whether anything has changed.
func (p *Place) installUnit(name, text, wantedBy string) (changed bool, err error) {
	path := filepath.Join(p.Units, p.unitName(name))
	if have, err := os.ReadFile(path); err != nil || string(have) != text {
		changed = true
		if err := writeFile(path, []byte(text), 0o644); err != nil {
			return false, err
		}
	}
	if wantedBy == "" {
		return changed, nil
	}
	link := p.wants(wantedBy, name)
	if to, err := os.Readlink(link); err == nil && to == path {
		return changed, nil
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return changed, err
	}
	if err := errors.Join(remove(link), os.Symlink(path, link)); err != nil {
		return changed, err
	}
	return true, syncDir(filepath.Dir(link))
}

func (p *Place) wants(target, unit string) string {
	return filepath.Join(p.Units, target+".wants", p.unitName(unit))
}

// removeUnits stops units and takes them away.
func (p *Place) removeUnits(names ...string) error {
	if p.Units == "" {
		return nil
	}
	var all error
	any := false
	for _, name := range names {
		path := filepath.Join(p.Units, p.unitName(name))
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		any = true
		if p.Systemd {
			all = errors.Join(all, systemctl("stop", p.unitName(name)))
		}
		links := []string{path}
		for _, target := range []string{bootTarget, normalTarget, timersTarget} {
			links = append(links, p.wants(target, name))
		}
		all = errors.Join(all, remove(links...))
	}
	for _, target := range []string{bootTarget, normalTarget, timersTarget} {
		os.Remove(filepath.Join(p.Units, target+".wants")) // if it is empty
	}
	if any && p.Systemd {
		all = errors.Join(all, systemctl("daemon-reload"))
	}
	return all
}

// systemctl asks systemd for something, if it runs.
func systemctl(args ...string) error {
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
	defer stop()
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Targets that want our units.
const (
	bootTarget   = "sysinit.target"
	normalTarget = "multi-user.target"
	timersTarget = "timers.target"
)

func (p *Place) installGuardUnit() error {
	program, err := p.program()
	if err != nil {
		return err
	}
	changed, err := p.installUnit(guardUnit, p.guardText(program), bootTarget)
	if err == nil && p.Namespace == "" {
		err = writeFile(filepath.Join(p.Units, nftablesDropIn), []byte(p.dropInText(program)), 0o644)
	}
	if err != nil || !changed || !p.Systemd {
		return err
	}
	// Started, so that it follows a restart of nftables. It waits for the locks that are held now.
	return errors.Join(systemctl("daemon-reload"), systemctl("start", "--no-block", p.unitName(guardUnit)))
}

// guardText is the unit that loads the guard before there is any network.
//
// It keeps CAP_NET_RAW and CAP_NET_BIND_SERVICE for the process that ends a change which was open when the host
// went down: that sends probes. CAP_SYS_PTRACE lets it tell the initial network namespace, by /proc/1.
func (p *Place) guardText(program string) string {
	return unit{
		"Unit", fields{
			{"Description", "Guard of espalier's tunnels: what they protect never goes in clear"},
			{"Documentation", "man:espalier(1)"},
			{"DefaultDependencies", "no"},
			{"Wants", "network-pre.target"},
			{"Before", "network-pre.target shutdown.target"},
			{"Conflicts", "shutdown.target"},
			// nftables.service begins by taking away all there is.
			{"After", "systemd-remount-fs.service systemd-modules-load.service nftables.service"},
			{"PartOf", "nftables.service"},
			{"ReloadPropagatedFrom", "nftables.service"},
			{"RequiresMountsFor", quoted(p.Dir) + " " + quoted(filepath.Dir(program))},
		},
		"Service", append(fields{
			{"Type", "oneshot"},
			{"RemainAfterExit", "yes"},
			{"ExecStart", command(program, "boot", "--dir", p.Dir)},
			{"ExecReload", command(program, "boot", "--dir", p.Dir)},
			{"TimeoutStartSec", "30s"},
			{"KillMode", "process"}, // what ends an open change outlives a restart of nftables
			{"OOMPolicy", "continue"},
			// The record of keys is beside the state. The last change to be undone takes the units away.
			{"ReadWritePaths", "-" + quoted(filepath.Dir(p.Dir)) + " -" + quoted(p.Units)},
			{"CapabilityBoundingSet", "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SYS_PTRACE"},
			{"RestrictAddressFamilies", "AF_NETLINK AF_UNIX AF_INET AF_INET6 AF_PACKET"},
		}, append(p.surroundings(), hardening...)...),
		"Install", fields{{"WantedBy", bootTarget}},
	}.String()
}

// nftablesDropIn is what is added to nftables.service, which takes away all tables when it starts and
// when it stops: its restart and reload take the guard's unit along, these do not.
const nftablesDropIn = "nftables.service.d/espalier.conf"

func (p *Place) dropInText(program string) string {
	again := "-" + command(program, "boot", "--dir", p.Dir)
	return unit{"Service", fields{{"ExecStartPost", again}, {"ExecStopPost", again}}}.String()
}

func (p *Place) removeDropIn() error {
	if p.Units == "" || p.Namespace != "" {
		return nil
	}
	path := filepath.Join(p.Units, nftablesDropIn)
	err := remove(path)
	os.Remove(filepath.Dir(path)) // if it is empty
	return err
}

// surroundings are where commands run, and what they depend on.
func (p *Place) surroundings() fields {
	var all fields
	for _, e := range p.Environment {
		all = append(all, field{"Environment", quoted(e)})
	}
	if p.Namespace != "" {
		all = append(all, field{"NetworkNamespacePath", p.Namespace})
	}
	return all
}

// hardening is what none of our units without ssh needs.
var hardening = fields{
	{"NoNewPrivileges", "yes"},
	{"ProtectSystem", "strict"},
	{"ProtectHome", "read-only"},
	{"ProtectControlGroups", "yes"},
	{"ProtectKernelLogs", "yes"},
	{"ProtectClock", "yes"},
	{"ProtectHostname", "yes"},
	{"LockPersonality", "yes"},
	{"MemoryDenyWriteExecute", "yes"},
	{"RestrictNamespaces", "yes"},
	{"RestrictRealtime", "yes"},
	{"RestrictSUIDSGID", "yes"},
	{"SystemCallArchitectures", "native"},
}

// unit is the text of a unit: sections and their fields in turn.
type unit [6]any

type fields []field

type field struct{ name, value string }

func (u unit) String() string {
	var b strings.Builder
	b.WriteString("# Written by espalier, which takes it away with its last tunnel.\n")
	for i := 0; i < len(u) && u[i] != nil; i += 2 {
		fmt.Fprintf(&b, "\n[%s]\n", u[i])
		for _, f := range u[i+1].(fields) {
			fmt.Fprintf(&b, "%s=%s\n", f.name, f.value)
		}
	}
	return b.String()
}

// quoted is a word as unit files want it (systemd.syntax(7)); % begins a specifier there.
func quoted(word string) string {
	word = strings.NewReplacer("%", "%%", `\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(word)
	if strings.ContainsAny(word, " \t'\";\\") || word == "" {
		return `"` + word + `"`
	}
	return word
}

// command is a command line as ExecStart wants it, where $ begins a variable too.
func command(words ...string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = quoted(strings.ReplaceAll(w, "$", "$$"))
	}
	return strings.Join(all, " ")
}
