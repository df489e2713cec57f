package probe

import (
	"bufio"
	"bytes"
	"io/fs"
	"slices"
	"strings"
)

// distribution is who made the system, by os-release(5).
type distribution struct {
	ID       string   // "debian"; "" if nobody says so
	Like     []string // ID_LIKE: what it is made from, the closest first
	Version  string   // VERSION_ID: "12"
	Variant  string   // VARIANT_ID: "coreos"
	Codename string   // VERSION_CODENAME: "bookworm"
	Pretty   string   // "Debian GNU/Linux 12 (bookworm)"
}

// readDistribution reads etc/os-release or, where that is missing, usr/lib/os-release. Without either
// the error is of the first.
func readDistribution(root fs.FS) (distribution, error) {
	text, err := fs.ReadFile(root, "etc/os-release")
	if err != nil {
		var again error
		if text, again = fs.ReadFile(root, "usr/lib/os-release"); again != nil {
			return distribution{}, err
		}
	}
	values := shellAssignments(text)
	return distribution{
		ID:       values["ID"],
		Like:     strings.Fields(values["ID_LIKE"]),
		Version:  values["VERSION_ID"],
		Variant:  values["VARIANT_ID"],
		Codename: values["VERSION_CODENAME"],
		Pretty:   values["PRETTY_NAME"],
	}, nil
}

// is reports whether the distribution is one of those, or made from one.
func (d distribution) is(ids ...string) bool {
	return slices.ContainsFunc(ids, func(id string) bool { return d.ID == id || slices.Contains(d.Like, id) })
}

// name for sentences: "Debian GNU/Linux 12 (bookworm)".
func (d distribution) name() string {
	switch {
	case d.Pretty != "":
		return d.Pretty
	case d.ID != "":
		return d.ID
	}
	return "this distribution"
}

// shellAssignments reads lines of NAME=value, the value perhaps in quotes. Other lines are skipped.
func shellAssignments(text []byte) map[string]string {
	values := make(map[string]string)
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		name, value, ok := strings.Cut(strings.TrimSpace(s.Text()), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		values[name] = unescape.Replace(value)
	}
	return values
}

var unescape = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, "\\`", "`")
