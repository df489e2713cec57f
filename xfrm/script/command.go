package script

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// line is a command whose variables have been put in.
type line struct {
	words      []expanded
	start, end int
	docs       []*document

	namespace string
	typed     bool
	family    uint16
}

func base(program string) string { return path.Base(program) }

// unread tells of a place.
func (s *shell) unread(at int, format string, args ...any) {
	s.script.Unread = append(s.script.Unread, Unread{s.script.LineAt(at), fmt.Sprintf(format, args...)})
}

// recognize finds out whether a command is one of ip xfrm.
func (s *shell) recognize(l *line) {
	unwrap(l)
	if len(l.words) == 0 {
		return
	}
	program := base(l.words[0].Text)
	s.last = program
	switch {
	case l.words[0].unknown != "":
		if mentionsXfrm(l.words) {
			s.unread(l.start, "which program this is is not known: %s", l.words[0].unknown)
		}
	case program == "ip":
		l.typed = !s.batch
		s.ip(l, l.words[1:])
	case program == "espalier":
		l.typed = !s.batch
		s.espalier(l, l.words[1:])
	case program == "xfrm":
		s.ip(l, l.words)
	case (program == "state" || program == "policy") && len(l.words) > 1 && changes(l.words):
		s.xfrm(l, l.words)
	case !slices.Contains(harmless, program) && (mentionsXfrm(l.words) || s.feedsXfrm(l)):
		if slices.Contains(elsewhere, program) {
			s.unread(l.start, "what %s makes of it is not followed", program)
		} else {
			s.unread(l.start, "what this program makes of it is not known")
		}
	}
}

var (
	harmless  = []string{"echo", "printf", "logger", "grep", "cat", "man", "tee", "test", "[", "[[", "sed", "awk"}
	elsewhere = []string{"ssh", "eval", "sh", "bash", "dash", "xargs", "su", "chroot", "nsenter", "unshare", "timeout", "watch", "parallel", "source", "trap"}
)

// unwrap takes off programs that only run another one.
func unwrap(l *line) {
	for len(l.words) > 1 {
		var valued []string // options that take a value
		switch base(l.words[0].Text) {
		case "sudo", "doas":
			valued = []string{"-u", "-g", "-p", "-h", "-C", "-T", "-D"}
		case "env":
			valued = []string{"-u", "-C"}
		case "nice", "ionice":
			valued = []string{"-n", "-c"}
		case "exec", "command", "nohup", "builtin":
		default:
			return
		}
		rest := l.words[1:]
		for len(rest) > 0 && (strings.HasPrefix(rest[0].Text, "-") || strings.Contains(rest[0].Text, "=")) {
			if slices.Contains(valued, rest[0].Text) && len(rest) > 1 {
				rest = rest[1:]
			}
			rest = rest[1:]
		}
		l.words = rest
	}
}

// mentionsXfrm reports whether words seem to change SAs or policies.
func mentionsXfrm(words []expanded) bool {
	var all strings.Builder
	for _, w := range words {
		all.WriteString(w.Text + " ")
	}
	text := all.String()
	return strings.Contains(text, "xfrm") && (strings.Contains(text, "state") || strings.Contains(text, "policy")) &&
		(strings.Contains(text, "add") || strings.Contains(text, "update") || strings.Contains(text, "del") || strings.Contains(text, "flush"))
}

// feedsXfrm reports whether a here-document seems to change SAs or policies.
func (s *shell) feedsXfrm(l *line) bool {
	return slices.ContainsFunc(l.docs, func(d *document) bool {
		return mentionsXfrm([]expanded{{Word: Word{Text: s.script.Text[d.start:d.end]}}})
	})
}

// ip reads the options of ip up to xfrm. In a batch there are none.
func (s *shell) ip(l *line, words []expanded) {
	for len(words) > 0 && strings.HasPrefix(words[0].Text, "-") {
		name, value := "-"+strings.TrimLeft(words[0].Text, "-"), ""
		if len(words) > 1 {
			value = words[1].Text
		}
		takes := true
		switch {
		case name == "-4":
			l.family, takes = unix.AF_INET, false
		case name == "-6":
			l.family, takes = unix.AF_INET6, false
		case name == "-f" || isPrefix(name, "-family", 3):
			l.family = map[string]uint16{"inet": unix.AF_INET, "inet6": unix.AF_INET6}[value]
		case name == "-n" || isPrefix(name, "-netns", 3):
			l.namespace = value
		case name == "-b" || isPrefix(name, "-batch", 3):
			s.batchFile(l, value)
			return
		case isPrefix(name, "-loops", 2), isPrefix(name, "-rcvbuf", 3), name == "-sad":
		default:
			takes = false
		}
		words = words[1:]
		if takes && len(words) > 0 {
			if words[0].unknown != "" && mentionsXfrm(words) {
				s.unread(l.start, "the value of %s is not known: %s", name, words[0].unknown)
				return
			}
			words = words[1:]
		}
	}
	switch {
	case len(words) > 3 && words[0].Text == "netns" && words[1].Text == "exec":
		inner := *l
		inner.namespace, inner.words = words[2].Text, words[3:]
		if words[2].unknown != "" && mentionsXfrm(words) {
			s.unread(l.start, "which network namespace is not known: %s", words[2].unknown)
			return
		}
		s.recognize(&inner)
	case len(words) > 0 && words[0].unknown != "" && mentionsXfrm(words):
		s.unread(l.start, "what ip is to do is not known: %s", words[0].unknown)
	case len(words) > 1 && isPrefix(words[0].Text, "xfrm", 1):
		s.xfrm(l, words[1:])
	}
}

// espalier reads the options of espalier xfrm, which stand on both sides of xfrm.
func (s *shell) espalier(l *line, words []expanded) {
	i := slices.IndexFunc(words, func(w expanded) bool { return w.Text == "xfrm" })
	if i < 0 {
		return
	}
	s.ip(l, slices.Concat(words[:i], optionsFirst(words[i+1:])))
}

// optionsFirst puts xfrm behind the options that follow it.
func optionsFirst(words []expanded) []expanded {
	n := 0
	for n < len(words) && strings.HasPrefix(words[n].Text, "-") {
		if slices.Contains([]string{"--sad", "-sad", "-batch", "-b", "-n", "-netns", "-f", "-family"}, words[n].Text) {
			n++
		}
		n++
	}
	n = min(n, len(words))
	return slices.Concat(words[:n], []expanded{{Word: Word{Text: "xfrm"}}}, words[n:])
}

func isPrefix(word, of string, least int) bool {
	return len(word) >= least && strings.HasPrefix(of, word)
}

// batchFile reads a here-document of commands. Files are read by who names them.
func (s *shell) batchFile(l *line, file string) {
	switch why := s.why(); {
	case file != "-" && file != "/dev/stdin":
		s.unread(l.start, "the commands are in another file: give that one, too")
	case s.piped || len(l.docs) == 0:
		s.unread(l.start, "the commands come from another program")
	case why != "":
		s.unread(l.start, "%s", why)
	default:
		doc := l.docs[len(l.docs)-1]
		inner := &shell{script: s.script, names: s.names, vars: s.vars, holes: s.holes, spent: s.spent, batch: true}
		if l.namespace != "" {
			inner.stack = []string{"it is of another network namespace"}
		}
		inner.run(&lexer{text: s.script.Text, pos: doc.start, end: doc.end, literal: doc.literal})
	}
}

var readVerbs = []string{"list", "show", "lst", "get", "count", "monitor", "getdefault"}

// changes reports whether the words behind xfrm change anything, or are none of its.
func changes(words []expanded) bool {
	if isPrefix(words[0].Text, "monitor", 1) || len(words) == 1 {
		return false
	}
	verb := words[1].Text
	for _, first := range []string{"add", "update", "allocspi", "delete", "deleteall", "delall", "list", "show", "lst", "get", "flush", "count", "set", "setdefault", "getdefault"} {
		if isPrefix(verb, first, 1) {
			return !slices.Contains(readVerbs, first)
		}
	}
	return true
}

// xfrm is a command, from its object on.
func (s *shell) xfrm(l *line, words []expanded) {
	if len(words) == 0 || words[0].unknown == "" && !changes(words) {
		return
	}
	if why := s.why(); why != "" {
		s.unread(l.start, "%s", why)
		return
	}
	c := Command{Line: s.script.LineAt(l.start), Start: l.start, End: l.end, Namespace: l.namespace, Typed: l.typed}
	texts := make([]string, len(words))
	elsewhere := false
	for i := range words {
		w := &words[i]
		texts[i] = w.Text
		if w.unknown != "" {
			if !isKey(words, i) {
				s.unread(l.start, "word %d is not known: %s", i+1, w.unknown)
				return
			}
			elsewhere = true
			if w.source == "" {
				w.source = fmt.Sprintf("$ of byte %d", w.Start)
			}
			texts[i] = "@" + w.source
		}
		c.Words = append(c.Words, w.Word)
	}
	c.Parsed, c.Err = xfrm.Parse(texts, xfrm.Env{Interface: s.names.Index, KeyFile: keyElsewhere, Family: l.family})
	if c.Err == nil {
		forgetKey(c.Parsed, texts)
		c.Parsed.KeyTyped = c.Parsed.KeyTyped || elsewhere
	}
	s.script.Commands = append(s.script.Commands, c)
}

// isKey reports whether a key stands at a place.
func isKey(words []expanded, i int) bool {
	return i >= 2 && slices.Contains([]string{"aead", "enc", "auth", "auth-trunc"}, words[i-2].Text)
}

// keyElsewhere stands for keys that are not in the script.
func keyElsewhere(string) ([]byte, error) { return []byte("0x" + strings.Repeat("00", 36)), nil }

// forgetKey takes out the keys of keyElsewhere, and those that are made when the command runs. Their length is then 0:
// not known.
func forgetKey(cmd *xfrm.Command, words []string) {
	if cmd.State == nil {
		return
	}
	if a := cmd.State.AEAD; a != nil && (cmd.KeyFiles["aead"] != "" || slices.Contains(words, "--generate-key")) {
		a.Key, a.KeyBits = ipsec.Key{}, 0
	}
	if a := cmd.State.Crypt; a != nil && cmd.KeyFiles["enc"] != "" {
		a.Key, a.KeyBits = ipsec.Key{}, 0
	}
	if a := cmd.State.Auth; a != nil && cmd.KeyFiles["auth"] != "" {
		a.Key, a.KeyBits = ipsec.Key{}, 0
	}
	if a := cmd.State.AuthTrunc; a != nil && cmd.KeyFiles["auth-trunc"] != "" {
		a.Key, a.KeyBits = ipsec.Key{}, 0
	}
}
