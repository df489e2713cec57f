package boot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"espalier/guard"
)

// Lost tells, in words, what does not last, or is not in force, of what Install of these pairs, Hold of these
// ports and SetRotation have made: other programs flush nftables, and people delete units. Install and Hold
// of the same put it back. It changes nothing.
func (p *Place) Lost(pairs []Pair, ports []uint16) (lost []string) {
	note := func(format string, args ...any) { lost = append(lost, fmt.Sprintf(format, args...)) }
	if len(pairs) > 0 {
		pairs = normal(pairs)
		switch loaded, whole, err := guard.HostLoaded(rulesOf(pairs)); {
		case err != nil:
			note("no telling whether the guard is loaded (%v)", err)
		case !loaded:
			note("the guard is not loaded")
		case !whole:
			note("the guard is not loaded as it is to be")
		}
		if text, err := encodeGuard(pairs); err != nil || !p.has(guardFile, text) || !p.has(guardCopy, text) {
			note("the guard is not written down for the next boot as it is to be")
		}
		p.lostUnit(guardUnit, bootTarget, note)
	}
	for _, port := range ports {
		if !bound(port) {
			note("nobody holds UDP port %d for the kernel's ESP", port)
		}
		p.lostUnit(fmt.Sprintf(encapUnit, port), normalTarget, note)
	}
	if have, _ := p.heldPorts(); !slices.Equal(have, ports) && len(ports) > 0 {
		note("which UDP ports to hold is not written down for the next boot")
	}
	if all, err := p.Rotations(); err != nil || len(all) > 0 {
		p.lostUnit(rotateService, "", note)
		p.lostUnit(rotateTimer, timersTarget, note)
		if p.Systemd && systemctl("is-active", "--quiet", p.unitName(rotateTimer)) != nil {
			note("%s does not run", p.unitName(rotateTimer))
		}
	}
	return lost
}

// has reports whether a file of the state says just that.
func (p *Place) has(name string, text []byte) bool {
	have, err := os.ReadFile(filepath.Join(p.Dir, name))
	return err == nil && bytes.Equal(have, text)
}

// lostUnit notes what a unit lacks to be started. It may have been written by another version of
// espalier: that is no reason to write it anew.
func (p *Place) lostUnit(name, wantedBy string, note func(string, ...any)) {
	if p.Units == "" {
		return
	}
	unit := p.unitName(name)
	path := filepath.Join(p.Units, unit)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		note("%s is not there", unit)
		return
	case err != nil || len(text) == 0: // systemctl mask makes it a link to nothing
		note("%s says nothing", unit)
		return
	}
	if program := programOf(string(text)); program != "" {
		if _, err := os.Stat(program); err != nil {
			note("%s runs %s, which is not there", unit, program)
		}
	}
	if wantedBy == "" {
		return
	}
	if to, err := os.Readlink(p.wants(wantedBy, name)); err != nil || to != path {
		note("%s is not enabled", unit)
	}
}

// programOf is the program that a unit runs; "" if it cannot be told.
func programOf(text string) string {
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "ExecStart="); ok && !strings.ContainsAny(command, `"\%$`) {
			program, _, _ := strings.Cut(strings.TrimSpace(command), " ")
			return program
		}
	}
	return ""
}

// bound reports whether a socket has a UDP port, for IPv4: see proc_net_udp(5).
func bound(port uint16) bool {
	f, err := os.Open("/proc/thread-self/net/udp")
	if err != nil {
		return true // no telling
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		_, hex, _ := strings.Cut(fields[1], ":")
		if n, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(n) == port {
			return true
		}
	}
	return false
}

// KeepRotations has the timer of SetRotation be there again, if it was lost.
func (p *Place) KeepRotations() error {
	if p.Units == "" {
		return nil
	}
	return p.locked(func() error {
		all, err := p.Rotations()
		if err != nil || len(all) == 0 {
			return err
		}
		if err := p.putRotations(all); err != nil || !p.Systemd {
			return err
		}
		return systemctl("start", p.unitName(rotateTimer))
	})
}
