// Package archtest holds the arrows between packages: who may import whom. A new arrow is a
// decision about the structure, made here.
package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// arrows lists for each package the packages of this module it may import. "internal/inet" and
// "ipsec" are vocabulary: they import nothing of the module. internal/cli joins all the others, and is not
// in the list.
var arrows = map[string][]string{
	"cmd/espalier": {"internal/cli"},

	"ipsec":         {},
	"config":        {"ipsec"},
	"internal/fd":   {},
	"internal/inet": {},

	"xfrm":        {"ipsec"},
	"xfrm/client": {"xfrm", "ipsec"},
	"xfrm/outage": {"xfrm", "ipsec"},
	"xfrm/pair":   {"xfrm", "ipsec"},
	"xfrm/server": {"xfrm", "ipsec"},
	"verdict":     {"ipsec"},
	"xfrm/script": {"xfrm", "ipsec"},
	"lint":        {"xfrm", "xfrm/pair", "xfrm/script", "ipsec"},
	"importer":    {"config", "xfrm", "xfrm/pair", "xfrm/script", "ipsec"},

	"tunnel":       {"config", "ipsec"},
	"deploy/steps": {"tunnel", "config", "ipsec", "xfrm"},
	"deploy/boot":  {"guard", "ipsec"},
	"deploy/host":  {"deploy/steps", "deploy/boot", "tunnel", "config", "ipsec", "xfrm", "xfrm/client", "probe", "guard", "remote", "internal/inet", "internal/usedkeys"},
	"deploy":       {"deploy/steps", "tunnel", "config", "ipsec", "remote", "verdict"},

	"verdict/verify":  {"esp", "internal/inet", "internal/wire", "ipsec", "verdict", "verdict/observe", "xfrm"},
	"verdict/observe": {"internal/niccount", "lint", "verdict", "xfrm", "xfrm/pair", "ipsec"},

	"aesgcm":     {},
	"esp/replay": {},
	"esp":        {"aesgcm", "esp/replay", "ipsec"},
	"tun":        {"internal/fd", "internal/inet"},
	"underlay":   {"internal/fd", "internal/inet"},
	"guard":      {"ipsec"},
	"dataplane":  {"tun", "underlay", "guard", "esp", "esp/replay", "ipsec", "internal/fd", "internal/inet"},

	"probe":             {"aesgcm", "internal/niccount", "probe/firewall"},
	"probe/firewall":    {},
	"probe/probetest":   {"probe", "probe/firewall"},
	"probe/trial":       {"probe", "xfrm", "xfrm/client", "ipsec"},
	"remote":            {},
	"accept":            {"probe", "remote", "verdict"},
	"internal/usedkeys": {"ipsec"},
	"internal/xfrmstat": {},
	"internal/bundle":   {"probe"},

	"internal/niccount": {},

	"internal/netns": {},
	"internal/wire":  {"internal/inet", "ipsec"},
	"demo":           {"internal/inet", "internal/netns", "internal/wire", "ipsec", "verdict", "xfrm", "xfrm/client"},

	"internal/archtest": {},
}

// outside lists the packages that may import nothing from outside of the module but the
// standard library and the modules named. Packages not listed are free to choose.
var outside = map[string][]string{
	"ipsec":         {},
	"config":        {"go.yaml.in/yaml/v4"},
	"internal/inet": {"golang.org/x/sys"},
	"verdict":       {},
	"lint":          {},
	"esp/replay":    {},
	"esp":           {},
	"aesgcm":        {"golang.org/x/sys"},
	"internal/fd":   {"golang.org/x/sys"},
	"remote":        {},
	"tun":           {"golang.org/x/sys"},
	"underlay":      {"golang.org/x/sys"},
	"xfrm":          {"github.com/mdlayher/netlink", "golang.org/x/sys"},
	// Who asks a host brings no library along that would change it. Rules are decoded by hand:
	// google/nftables leaves out expressions that it does not know, and with them conditions.
	"probe":          {"github.com/mdlayher/netlink", "github.com/safchain/ethtool", "golang.org/x/sys"},
	"probe/firewall": {"github.com/mdlayher/netlink", "golang.org/x/sys"},
	"guard":          {"github.com/google/nftables", "github.com/mdlayher/netlink", "golang.org/x/sys"},
}

const module = "espalier/"

type listed struct {
	ImportPath string
	Imports    []string
}

func TestArrows(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		if name == "internal/cli" {
			continue
		}
		allowed, known := arrows[name]
		if !known {
			t.Errorf("%s is not in the table of arrows: decide what it may import", name)
			continue
		}
		for _, own := range allowed {
			if !slices.Contains(p.Imports, module+own) {
				t.Errorf("%s does not import %s any more: take the arrow out of the table", name, own)
			}
		}
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, module); ok {
				if !slices.Contains(allowed, own) {
					t.Errorf("%s imports %s: no such arrow", name, own)
				}
				continue
			}
			modules, limited := outside[name]
			if limited && isForeign(imp) && !slices.ContainsFunc(modules, func(m string) bool { return imp == m || strings.HasPrefix(imp, m+"/") }) {
				t.Errorf("%s imports %s: it may use the standard library and %v", name, imp, modules)
			}
		}
	}
}

// isForeign: the standard library's paths have no dot in their first element.
func isForeign(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".")
}

func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "espalier/...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(p.ImportPath, module+"test") { // a module of its own
			all = append(all, p)
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d packages: is the pattern right?", len(all))
	}
	return all
}
