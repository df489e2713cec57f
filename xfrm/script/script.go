package script

import (
	"fmt"
	"sort"
	"strings"

	"espalier/xfrm"
)

// Script is what stands in one file.
type Script struct {
	Name     string
	Text     string
	Commands []Command // of ip xfrm that change something, in the order of the file
	Unread   []Unread

	lines []int // offsets at which the lines begin
}

// Unread is a place that only a shell can make sense of.
type Unread struct {
	Line   int
	Reason string
}

// Command is one command of ip xfrm. Of Parsed and Err one is nil.
type Command struct {
	Line       int // it begins on
	Start, End int // offsets in the text, of its first word and behind its last
	Words      []Word
	Parsed     *xfrm.Command
	Err        error // no key is in it
	// Namespace is the network namespace that the command names, "" if it names none.
	Namespace string
	// Typed says that a shell runs the command: its words are seen in the list of processes. Else a program reads
	// it from a file.
	Typed bool
}

// Word is one word behind `xfrm`.
type Word struct {
	Text       string // may be a key
	Start, End int    // where it stands in the text, quotes included
	// Shared: other words come from the same place, by a variable.
	Shared bool
}

// LineAt is the line, from 1, that has an offset of the text.
func (s *Script) LineAt(offset int) int {
	return sort.Search(len(s.lines), func(i int) bool { return s.lines[i] > offset })
}

// maxText bounds a script, in bytes.
const maxText = 16 << 20

// Read reads the text of a file. Interfaces get numbers by names, which scripts of one host have to share.
// An error is about a text that is none; it tells nothing of its contents.
func Read(name, text string, names *Interfaces) (*Script, error) {
	switch i := strings.IndexByte(text, 0); {
	case len(text) > maxText:
		return nil, fmt.Errorf("the script is longer than %d MiB", maxText>>20)
	case i >= 0:
		return nil, fmt.Errorf("line %d: this is not text", 1+strings.Count(text[:i], "\n"))
	}
	s := &Script{Name: name, Text: text, lines: []int{0}}
	for i := range len(text) {
		if text[i] == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	sh := &shell{script: s, names: names, vars: map[string]string{}, holes: new([]hole), spent: new(int)}
	sh.run(&lexer{text: text, end: len(text)})
	return s, nil
}

// Interfaces numbers the names of network interfaces.
type Interfaces struct{ names []string }

// Index is the number of a name, from 1.
func (n *Interfaces) Index(name string) (int, error) {
	if name == "" || len(name) > 15 || strings.ContainsAny(name, "/ \t\n") {
		return 0, fmt.Errorf("no interface has such a name")
	}
	for i, known := range n.names {
		if known == name {
			return i + 1, nil
		}
	}
	n.names = append(n.names, name)
	return len(n.names), nil
}

// Name is the name of a number, "" if there is none.
func (n *Interfaces) Name(index int) string {
	if index < 1 || index > len(n.names) {
		return ""
	}
	return n.names[index-1]
}
