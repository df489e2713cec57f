package importer

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"espalier/config"
	"espalier/xfrm/pair"
	"espalier/xfrm/script"
)

// Source is a script to read.
type Source struct {
	Name string
	Host string // name of its host, "" if the script tells by itself
	Text string
}

// Options say what scripts do not.
type Options struct {
	Name string // of the tunnel; of several, with -2, -3 … behind it. Left out: of the hosts' names
	// Devs are the network devices of addresses, the zero address is for all others.
	Devs map[netip.Addr]string
}

// Remark is what a person has to know about a line, or about all (no Line).
type Remark struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // from 1
	Text string `json:"text"`
	Lost bool   `json:"lost"` // the file does not say what the line says
}

// Result is a file of tunnels, as it is parsed from its text.
type Result struct {
	File    *config.File
	Text    []byte
	Remarks []Remark
}

// Placeholder stands for a network device that the scripts do not tell.
const Placeholder = "CHANGE-ME"

// Import reads scripts of one or more hosts. An error is about texts that are none, or have no tunnel.
func Import(sources []Source, options Options) (*Result, error) {
	im := &importer{options: options, names: new(script.Interfaces)}
	var scripts []*script.Script
	var given []string
	for _, src := range sources {
		s, err := script.Read(src.Name, src.Text, im.names)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", src.Name, err)
		}
		scripts, given = append(scripts, s), append(given, src.Host)
		im.unread(s)
	}
	for _, h := range script.Hosts(scripts, given) {
		im.hosts = append(im.hosts, &host{h, pair.Match(h.States, h.Policies, h.Has)})
	}
	for _, h := range im.hosts {
		im.collect(h)
	}
	im.leftOver()
	if len(im.groups) == 0 {
		return nil, errors.New("there is no policy or pair of SAs that a tunnel could be made of" + im.hint())
	}
	file := im.file()
	text, err := file.YAML()
	if err != nil {
		return nil, err
	}
	text = append([]byte("# From scripts of ip xfrm, by espalier import. Keys and SPIs are made anew.\n"), text...)
	parsed, err := config.Parse("the file", text)
	if err != nil {
		return nil, fmt.Errorf("the tunnels in the scripts cannot be had together:\n%w", err)
	}
	slices.SortStableFunc(im.remarks, func(a, b Remark) int {
		order := func(r Remark) int {
			return slices.IndexFunc(sources, func(s Source) bool { return s.Name == r.File })
		}
		return cmp.Or(cmp.Compare(order(a), order(b)), cmp.Compare(a.Line, b.Line))
	})
	return &Result{File: parsed, Text: text, Remarks: im.remarks}, nil
}

// importer is one run.
type importer struct {
	options Options
	names   *script.Interfaces
	hosts   []*host
	groups  []*group // what there is between two addresses, in the order of the scripts
	remarks []Remark
}

type host struct {
	*script.Host
	match *pair.Matching
}

// lost tells of a line that the file has no word for, note of one that it says otherwise.
func (im *importer) lost(at script.At, format string, args ...any) {
	im.remark(Remark{at.Script.Name, at.Command.Line, fmt.Sprintf(format, args...), true})
}

func (im *importer) note(at script.At, format string, args ...any) {
	im.remark(Remark{at.Script.Name, at.Command.Line, fmt.Sprintf(format, args...), false})
}

// remark tells once.
func (im *importer) remark(r Remark) {
	if !slices.Contains(im.remarks, r) {
		im.remarks = append(im.remarks, r)
	}
}

// unread tells of lines that were not read.
func (im *importer) unread(s *script.Script) {
	for _, u := range s.Unread {
		im.remark(Remark{s.Name, u.Line, "left out, for it takes a shell to know what it does: " + u.Reason, true})
	}
	for i := range s.Commands {
		if c := &s.Commands[i]; c.Err != nil {
			im.remark(Remark{s.Name, c.Line, "left out, for ip refuses it: " + c.Err.Error(), true})
		}
	}
}

// hint is the first line that was not read.
func (im *importer) hint() string {
	for _, r := range im.remarks {
		return fmt.Sprintf("; %s:%d was %s", r.File, r.Line, r.Text)
	}
	return ""
}
