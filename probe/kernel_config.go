package probe

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// config is what a kernel was built with: the .config of its build.
type config struct {
	source string            // the file, as a path from /; "" if none could be read
	values map[string]string // of CONFIG_ options that are not off: "y", "m", or anything else, unquoted
	err    error             // why no file could be read
}

// configFiles are where distributions leave the configuration of a kernel, the surest first: the
// kernel's own word, then files with the release in their path.
func configFiles(release string) []string {
	return []string{
		"proc/config.gz",
		"boot/config-" + release,
		"usr/lib/modules/" + release + "/config",
		"lib/modules/" + release + "/config",
		"usr/lib/ostree-boot/config-" + release,
		"usr/lib/kernel/config-" + release,
		"usr/src/linux-headers-" + release + "/.config",
		"lib/modules/" + release + "/build/.config",
	}
}

// readConfig takes the first file that is a configuration.
func readConfig(root fs.FS, release string) config {
	var failures []error
	for _, name := range configFiles(release) {
		values, err := readConfigFile(root, name)
		if err == nil {
			return config{source: "/" + name, values: values}
		}
		if !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, fmt.Errorf("/%s: %w", name, err))
		}
	}
	if len(failures) > 0 {
		return config{err: failures[0]}
	}
	return config{err: errors.New("no configuration of this kernel in /proc, /boot or /lib/modules")}
}

func readConfigFile(root fs.FS, name string) (map[string]string, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	return parseConfig(f)
}

// maxConfig limits what is read of a configuration, in bytes of text. Real ones have some 300 kB.
const maxConfig = 8 << 20

var errNoConfig = errors.New("this is no kernel configuration")

// parseConfig reads a .config, compressed with gzip or not. The last of several lines about an
// option counts, as for make.
func parseConfig(r io.Reader) (map[string]string, error) {
	in := bufio.NewReader(r)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, reason(err)
		}
		in = bufio.NewReader(z)
	}
	text, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return nil, reason(err)
	}
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%w: more than %d MiB", errNoConfig, maxConfig>>20)
	}
	values := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if off, ok := strings.CutSuffix(line, " is not set"); ok {
			if name, ok := strings.CutPrefix(off, "# CONFIG_"); ok {
				values[name] = "n"
			}
			continue
		}
		assignment, ok := strings.CutPrefix(line, "CONFIG_")
		if name, value, found := strings.Cut(assignment, "="); ok && found {
			values[name] = strings.Trim(value, `"`)
		}
	}
	if len(values) == 0 {
		return nil, errNoConfig
	}
	return values, nil
}

// known reports whether there is a configuration at all. What it does not mention is off: an option
// is left out when another one that it depends on is off.
func (c config) known() bool { return c.source != "" }

// value of an option: "n" if it is off.
func (c config) value(option string) string {
	if v, ok := c.values[option]; ok {
		return v
	}
	return "n"
}

// evidence is the line about an option.
func (c config) evidence(option string) Evidence {
	v, mentioned := c.values[option]
	switch {
	case !mentioned:
		v = "CONFIG_" + option + " is not mentioned"
	case v == "n":
		v = "# CONFIG_" + option + " is not set"
	default:
		v = "CONFIG_" + option + "=" + v
	}
	return Evidence{Source: c.source, Value: v}
}

// reason is an error without the operation and path that the file system tells, and callers tell
// better.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
