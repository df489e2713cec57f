package probe

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// modules is what the running kernel has and can get of modules.
type modules struct {
	release  string
	loaded   map[string]string // name → flags of its taint, as "OE": /proc/modules
	dir      string            // of the modules of this release, "lib/modules/6.1.0-28-amd64"; "" if there is none
	files    map[string]string // name → file, below dir: modules.dep
	builtin  map[string]bool   // modules.builtin
	blocked  map[string]block  // by modprobe.d or the kernel's command line
	disabled bool              // no module can be loaded until the next boot: kernel.modules_disabled
	off      bool              // the kernel was built without modules
}

// block is what keeps a module from being loaded.
type block struct {
	source, line string
	// byAlias: modprobe still loads it if someone calls it by its name; the kernel calls it by an alias.
	byAlias bool
}

// moduleDirs are where modules stand; the last one on NixOS.
var moduleDirs = []string{"lib/modules", "usr/lib/modules", "run/booted-system/kernel-modules/lib/modules"}

func readModules(root fs.FS, release string, c config) *modules {
	m := &modules{release: release, loaded: readLoaded(root), blocked: readBlocked(root)}
	m.disabled = readWord(root, "proc/sys/kernel/modules_disabled") == "1"
	m.off = c.known() && c.value("MODULES") != "y"
	for _, d := range moduleDirs {
		dir := d + "/" + release
		if info, err := fs.Stat(root, dir); release != "" && err == nil && info.IsDir() {
			m.dir = dir
			break
		}
	}
	if m.dir == "" {
		return m
	}
	if text, err := fs.ReadFile(root, m.dir+"/modules.dep"); err == nil {
		m.files = make(map[string]string)
		for line := range bytes.Lines(text) {
			file, _, ok := bytes.Cut(line, []byte{':'})
			if ok {
				m.files[moduleName(string(file))] = string(file)
			}
		}
	}
	if text, err := fs.ReadFile(root, m.dir+"/modules.builtin"); err == nil {
		m.builtin = make(map[string]bool)
		for line := range bytes.Lines(text) {
			m.builtin[moduleName(string(bytes.TrimSpace(line)))] = true
		}
	}
	return m
}

// moduleName is the name the kernel gives the module in a file such as net/ipv4/esp4.ko.zst.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readLoaded reads /proc/modules: "esp4 28672 2 esp4_offload, Live 0x0 (OE)".
func readLoaded(root fs.FS) map[string]string {
	text, err := fs.ReadFile(root, "proc/modules")
	if err != nil {
		return nil
	}
	loaded := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) >= 5 && words[4] == "Live" {
			flags := ""
			if len(words) > 6 {
				flags = strings.Trim(words[6], "()")
			}
			loaded[words[0]] = flags
		}
	}
	return loaded
}

// has reports whether the module is there, loaded or in a file.
func (m *modules) has(name string) bool {
	_, isLoaded := m.loaded[name]
	_, isFile := m.files[name]
	return isLoaded || isFile || m.builtin[name]
}

// foreign reports whether a loaded module was built apart from the kernel, as by DKMS or a vendor's
// driver package: the kernel's configuration does not speak of it.
func (m *modules) foreign(name string) bool { return strings.Contains(m.loaded[name], "O") }

// modprobeDirs of modprobe.d(5); a file hides those of its name in later ones.
var modprobeDirs = []string{"etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"}

// readBlocked reads modprobe.d(5) and /proc/cmdline. What cannot be read blocks nothing.
func readBlocked(root fs.FS) map[string]block {
	blocked := make(map[string]block)
	var seen []string
	for _, dir := range modprobeDirs {
		entries, err := fs.ReadDir(root, dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if path.Ext(e.Name()) != ".conf" || slices.Contains(seen, e.Name()) {
				continue
			}
			seen = append(seen, e.Name())
			if text, err := fs.ReadFile(root, dir+"/"+e.Name()); err == nil {
				parseModprobe(blocked, "/"+dir+"/"+e.Name(), text)
			}
		}
	}
	if text, err := fs.ReadFile(root, "proc/cmdline"); err == nil {
		parseCommandLine(blocked, string(text))
	}
	return blocked
}

// parseModprobe takes from a file of modprobe.d(5) what blocks modules: "blacklist M", and "install M
// /bin/false" in place of the module. An install line with another command may well load it.
func parseModprobe(into map[string]block, source string, text []byte) {
	joined := bytes.ReplaceAll(text, []byte("\\\n"), []byte(" "))
	for s := bufio.NewScanner(bytes.NewReader(joined)); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) < 2 {
			continue
		}
		name := strings.ReplaceAll(words[1], "-", "_")
		b := block{source: source, line: strings.Join(words, " ")}
		switch words[0] {
		case "blacklist":
			b.byAlias = true
			if old, ok := into[name]; !ok || old.byAlias {
				into[name] = b
			}
		case "install":
			if len(words) > 2 && doesNothing(words[2]) {
				into[name] = b
			}
		}
	}
}

func doesNothing(command string) bool {
	return slices.Contains([]string{"true", "false", ":"}, path.Base(command))
}

// parseCommandLine takes module_blacklist=, which the kernel itself heeds, and modprobe.blacklist=.
func parseCommandLine(into map[string]block, line string) {
	for _, word := range strings.Fields(line) {
		key, list, _ := strings.Cut(word, "=")
		if key != "module_blacklist" && key != "modprobe.blacklist" {
			continue
		}
		for name := range strings.SplitSeq(list, ",") {
			name = strings.ReplaceAll(name, "-", "_")
			if name != "" {
				into[name] = block{source: "/proc/cmdline", line: word, byAlias: key == "modprobe.blacklist"}
			}
		}
	}
}

// availability of a module to the running kernel.
type availability uint8

const (
	untold       availability = iota // nobody could say
	loaded                           // it is in use
	builtIn                          // there was never a module to load
	loadable                         // the kernel loads it on demand
	notInstalled                     // the kernel was built with it, the file is not here
	staleTree                        // nothing of this release's modules is here
	isBlocked                        // told not to load it
	isDisabled                       // nothing can be loaded any more
)

// find says how a module can be had, with what shows it.
func (m *modules) find(root fs.FS, name string) (availability, Evidence) {
	if _, ok := m.loaded[name]; ok {
		return loaded, Evidence{"/proc/modules", name}
	}
	if m.builtin[name] {
		return builtIn, Evidence{"/" + m.dir + "/modules.builtin", name}
	}
	switch {
	case m.dir == "" && m.release == "":
		return untold, Evidence{"/proc/sys/kernel/osrelease", ""}
	case m.dir == "":
		return staleTree, Evidence{"/lib/modules/" + m.release, "not there"}
	case m.files == nil:
		return untold, Evidence{"/" + m.dir + "/modules.dep", ""}
	}
	file, listed := m.files[name]
	if !listed {
		return notInstalled, Evidence{"/" + m.dir + "/modules.dep", name + " is not listed"}
	}
	full := strings.TrimPrefix(file, "/") // of old depmods the path is absolute
	if full == file {
		full = m.dir + "/" + file
	}
	if _, err := fs.Stat(root, full); err != nil {
		return notInstalled, Evidence{"/" + full, fmt.Sprintf("listed in modules.dep, but: %v", reason(err))}
	}
	if m.disabled {
		return isDisabled, Evidence{"/proc/sys/kernel/modules_disabled", "1"}
	}
	if b, ok := m.blocked[name]; ok {
		return isBlocked, Evidence{b.source, b.line}
	}
	return loadable, Evidence{Source: "/" + full}
}
