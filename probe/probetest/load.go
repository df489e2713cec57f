package probetest

import (
	"bytes"
	"compress/gzip"
	"embed"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"go.yaml.in/yaml/v4"

	"espalier/probe"
	"espalier/probe/firewall"
)

//go:embed hosts
var hosts embed.FS

// Parts lists the parts below hosts in a folder: "nic/connectx-7".
func Parts(t testing.TB, folder string) []string {
	t.Helper()
	files, err := fs.Glob(hosts, path.Join("hosts", folder, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no parts in %s: %v", folder, err)
	}
	for i := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(files[i], "hosts/"), ".yaml")
	}
	return files
}

// Load makes a host of parts.
func Load(t testing.TB, parts ...string) probe.System {
	t.Helper()
	h := host{files: tree{MapFS: fstest.MapFS{}, denied: map[string]bool{}}, links: map[string]*link{}, denied: map[string]bool{}}
	for _, name := range parts {
		text := []byte(name)
		if !strings.Contains(name, ":") {
			var err error
			if text, err = hosts.ReadFile("hosts/" + name + ".yaml"); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.add(text); err != nil {
			t.Fatalf("part %.40s: %v", name, err)
		}
	}
	if err := h.join(); err != nil {
		t.Fatal(err)
	}
	return probe.System{Root: h.files, Network: &h, Log: func() ([]string, error) { return h.log, h.refuse("log") }}
}

// host is what parts have come to.
type host struct {
	files   tree
	log     []string
	links   map[string]*link
	devlink []devlink
	chains  []firewall.Chain
	denied  map[string]bool
}

// part is one YAML document.
type part struct {
	Files   map[string]yaml.Node `yaml:"files"`
	Log     []string             `yaml:"log"`
	LogLost bool                 `yaml:"log-lost"` // what earlier parts logged
	Links   map[string]yaml.Node `yaml:"links"`
	Devlink []devlink            `yaml:"devlink"`
	Chains  []firewall.Chain     `yaml:"chains"`
	Denied  []string             `yaml:"denied"`
}

// link is one with what ethtool says of it.
type link struct {
	probe.Link `yaml:",inline"`
	On         string            `yaml:"on"`      // the link it sits on, by name
	PortOf     string            `yaml:"port-of"` // the bond or bridge it is a port of
	Driver     *probe.Driver     `yaml:"driver"`
	Features   map[string]string `yaml:"features"` // as ethtool -k has them
	Counters   map[string]uint64 `yaml:"counters"`
	Speed      uint32            `yaml:"speed"` // Mb/s
	Queues     *probe.Queues     `yaml:"queues"`
}

// devlink is a probe.Devlink, with answers in words.
type devlink struct {
	probe.Devlink `yaml:",inline"`
	Ports         []port `yaml:"ports"`
}

type port struct {
	probe.DevlinkPort `yaml:",inline"`
	Crypto            string `yaml:"ipsec-crypto"` // "yes", "no", or "" for unknown
	Packet            string `yaml:"ipsec-packet"`
}

func (h *host) add(text []byte) error {
	var p part
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		return err
	}
	for name, node := range p.Files {
		if err := h.files.put(name, &node); err != nil {
			return err
		}
	}
	if p.LogLost {
		h.log = nil
	}
	h.log = append(h.log, p.Log...)
	for name, node := range p.Links {
		if h.links[name] == nil {
			h.links[name] = &link{Link: probe.Link{Name: name}}
		}
		for _, key := range node.Content {
			if key.Value == "counters" {
				h.links[name].Counters = nil // other counters, not more of them
			}
		}
		if err := node.Decode(h.links[name]); err != nil {
			return err
		}
	}
	for _, d := range p.Devlink {
		h.devlink = slices.DeleteFunc(h.devlink, func(o devlink) bool { return o.Bus == d.Bus && o.Device == d.Device })
		h.devlink = append(h.devlink, d)
	}
	h.chains = append(h.chains, p.Chains...)
	for _, what := range p.Denied {
		h.denied[what] = true
	}
	return nil
}

// put adds a file.
func (t tree) put(name string, node *yaml.Node) error {
	delete(t.denied, name)
	if node.Tag == "!!null" {
		delete(t.MapFS, name)
		return nil
	}
	f := &fstest.MapFile{Data: []byte(node.Value), Mode: 0o444}
	switch node.Tag {
	case "!gzip":
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(f.Data) // into memory: never fails
		w.Close()
		f.Data = b.Bytes()
	case "!link":
		f.Mode = fs.ModeSymlink | 0o777
	case "!denied":
		t.denied[name] = true
	}
	t.MapFS[name] = f
	return nil
}

// tree is a file system that refuses some files, with everything below them.
type tree struct {
	fstest.MapFS
	denied map[string]bool
}

func (t tree) refuse(op, name string) error {
	for at := name; at != "."; at = path.Dir(at) {
		if t.denied[at] {
			return &fs.PathError{Op: op, Path: name, Err: fs.ErrPermission}
		}
	}
	return nil
}

func (t tree) Open(name string) (fs.File, error) {
	if err := t.refuse("open", name); err != nil {
		return nil, err
	}
	return t.MapFS.Open(name)
}

func (t tree) ReadFile(name string) ([]byte, error) {
	if err := t.refuse("open", name); err != nil {
		return nil, err
	}
	return t.MapFS.ReadFile(name)
}

func (t tree) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := t.refuse("open", name); err != nil {
		return nil, err
	}
	return t.MapFS.ReadDir(name)
}

func (t tree) ReadLink(name string) (string, error) {
	if err := t.refuse("readlink", path.Dir(name)); err != nil {
		return "", err
	}
	return t.MapFS.ReadLink(name)
}
