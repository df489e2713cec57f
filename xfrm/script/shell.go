package script

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// shell follows a script as far as no shell is needed.
type shell struct {
	script *Script
	names  *Interfaces
	vars   map[string]string // values; what is not known in them is a mark
	holes  *[]hole           // that marks stand for
	spent  *int              // bytes of values put in
	stack  []string          // of what is open: why what stands in it may run never or often; "" for a group
	ended  bool
	batch  bool // lines are those of a batch

	// Of the command that is read.
	words    []token
	docs     []*document
	perhaps  string // why it may not run
	last     string // the program before it
	piped    bool   // its standard input is the output of another
	function bool   // name() was read: what follows in braces is its body
}

// hole is a piece of a value that is not known.
type hole struct {
	why    string
	source string // of a variable: which, and where it was set; "" otherwise
}

// mark stands for a hole in texts, which have no zero bytes of their own.
func (s *shell) mark(h hole) string {
	*s.holes = append(*s.holes, h)
	return fmt.Sprintf("\x00%d\x00", len(*s.holes)-1)
}

// holeIn is the first hole in a text.
func (s *shell) holeIn(text string) (hole, bool) {
	_, rest, found := strings.Cut(text, "\x00")
	digits, _, _ := strings.Cut(rest, "\x00")
	i, err := strconv.Atoi(digits)
	if !found || err != nil || i >= len(*s.holes) {
		return hole{}, false
	}
	return (*s.holes)[i], true
}

// run reads commands up to the end.
func (s *shell) run(l *lexer) {
	for !s.ended {
		t := l.next()
		switch {
		case t.isWord():
			s.words = append(s.words, t)
			continue
		case t.doc != nil:
			s.docs = append(s.docs, t.doc)
			continue
		}
		switch t.operator {
		case "(":
			s.open()
			continue
		case ")":
			s.close()
			continue
		}
		s.command()
		switch t.operator {
		case "&&":
			s.after("&&")
		case "||":
			s.after("||")
		case "|":
			s.piped = true
		default:
			s.perhaps, s.piped = "", false
		}
		if t.operator == endOfText {
			return
		}
	}
}

// after is about what follows && and ||.
func (s *shell) after(operator string) {
	switch {
	case s.perhaps != "":
	case operator == "||":
		s.perhaps = "it runs only if what stands before it fails"
	case !slices.Contains(unconditional, s.last):
		s.perhaps = "it runs only if what stands before it succeeds"
	}
	s.piped = false
}

// unconditional are programs that do something and succeed, and are no questions.
var unconditional = []string{"ip", "espalier", "echo", "printf", "true", ":", "cd", "modprobe", "sysctl", "ethtool", "sleep", "set", "umask", "chmod", "export", ""}

// open is an opening parenthesis.
func (s *shell) open() {
	if len(s.words) > 0 && identifier(s.words[len(s.words)-1].bare()) > 0 && len(s.words) == 1 {
		s.function = true // name(): the parenthesis that closes comes next
		s.words = nil
	} else {
		s.command()
	}
	s.stack = append(s.stack, "it stands in a subshell")
}

// close is a closing parenthesis: of one that was opened, or of patterns in a case.
func (s *shell) close() {
	if n := len(s.stack); n > 0 && s.stack[n-1] == inCase {
		s.words, s.docs = nil, nil
		return
	}
	function := s.function
	s.command()
	s.function = function && len(s.words) == 0
	s.pop()
}

const inCase = "it stands in a case"

func (s *shell) pop() {
	if n := len(s.stack); n > 0 {
		s.stack = s.stack[:n-1]
	}
}

// openers begin what runs never, once or often. closers end it.
var (
	openers = map[string]string{
		"if": "it stands in an if", "while": "it stands in a loop", "until": "it stands in a loop",
		"for": "it stands in a loop", "select": "it stands in a loop", "case": inCase,
	}
	closers  = []string{"fi", "done", "esac", "}"}
	joints   = []string{"then", "do", "else", "elif", "!", "time"}
	noWords  = []string{"for", "select", "case"} // the words behind are no command
	settings = []string{"export", "readonly", "declare", "typeset", "local"}
)

// command carries out what was read.
func (s *shell) command() {
	words, docs := s.words, s.docs
	s.words, s.docs = nil, nil
	for len(words) > 0 {
		word := words[0].bare()
		switch {
		case openers[word] != "":
			s.stack = append(s.stack, openers[word])
			if word == "for" || word == "select" {
				if len(words) > 1 {
					s.forget(words[1].bare(), "set by a loop")
				}
			}
			if slices.Contains(noWords, word) {
				words = nil
				continue
			}
		case slices.Contains(closers, word):
			s.pop()
			words = nil
			continue
		case slices.Contains(joints, word):
		case word == "function" && len(words) > 1:
			s.function = true
			words = words[1:]
		case word == "{":
			why := s.perhaps
			if s.function {
				why = "it stands in a function"
			}
			s.stack = append(s.stack, why)
			s.function = false
		default:
			s.simple(words, docs)
			return
		}
		words = words[1:]
	}
	s.last = ""
}

// why a command may run never or often; "" if it runs once.
func (s *shell) why() string {
	for _, reason := range s.stack {
		if reason != "" {
			return reason
		}
	}
	return s.perhaps
}

// simple carries out a command without keywords.
func (s *shell) simple(tokens []token, docs []*document) {
	at := tokens[0].start
	n := 0
	for n < len(tokens) && s.assigns(&tokens[n]) {
		n++
	}
	if n == len(tokens) { // assignments for all that follows
		for i := range tokens {
			s.assign(&tokens[i])
		}
		s.last = ""
		return
	}
	end := tokens[len(tokens)-1].end
	words := s.expand(tokens[n:])
	if len(words) == 0 {
		return
	}
	program := words[0].Text
	s.last = base(program)
	switch {
	case words[0].unknown != "":
		s.last = "?"
	case slices.Contains(settings, program):
		for i := n + 1; i < len(tokens); i++ {
			if s.assigns(&tokens[i]) {
				s.assign(&tokens[i])
			}
		}
		return
	case program == "unset" || program == "read":
		for _, w := range words[1:] {
			s.forget(w.Text, "set by "+program)
		}
		return
	case (program == "exit" || program == "return") && s.why() == "":
		s.ended = true
		return
	}
	s.recognize(&line{words: words, start: at, end: end, docs: docs})
}

// assigns reports whether a word is NAME=value.
func (s *shell) assigns(t *token) bool {
	if s.batch || len(t.parts) == 0 || t.parts[0].quoted || t.parts[0].variable != "" || t.parts[0].unknown != "" {
		return false
	}
	text := t.parts[0].text
	n := identifier(text)
	return n > 0 && n < len(text) && (text[n] == '=' || strings.HasPrefix(text[n:], "+="))
}

func (s *shell) assign(t *token) {
	text := t.parts[0].text
	n := identifier(text)
	name, value := text[:n], ""
	if strings.HasPrefix(text[n:], "+=") {
		value = s.value(part{variable: name})
	}
	parts := slices.Clone(t.parts)
	parts[0].text = strings.TrimLeft(text[n:], "+=")
	if strings.HasPrefix(text[n:], "==") || strings.HasPrefix(text[n:], "+==") {
		parts[0].text = "=" + parts[0].text
	}
	if strings.HasPrefix(parts[0].text, "(") {
		s.forget(name, "an array")
		return
	}
	for _, p := range parts {
		if len(value) > maxValue {
			break
		}
		if p.unknown != "" {
			value += s.mark(hole{fmt.Sprintf("$%s is set by %s", name, p.unknown), fmt.Sprintf("$%s of line %d", name, s.script.LineAt(t.start))})
		} else {
			value += s.value(p)
		}
	}
	why := s.why()
	switch {
	case why != "":
		s.forget(name, "set where "+why)
	case len(value) > maxValue:
		s.forget(name, "too long")
	default:
		s.vars[name] = value
	}
}

// forget makes a variable one that is not known.
func (s *shell) forget(name, why string) {
	if name != "" && identifier(name) == len(name) {
		s.vars[name] = s.mark(hole{why: fmt.Sprintf("$%s is %s", name, why)})
	}
}

// maxValue and maxSpent bound what variables of variables come to, in bytes: one, and all together.
const (
	maxValue = 1 << 16
	maxSpent = 1 << 25
)

// value is what a part comes to.
func (s *shell) value(p part) string {
	switch {
	case p.unknown != "":
		return s.mark(hole{why: p.unknown})
	case p.variable == "":
		return p.text
	}
	if v, ok := s.vars[p.variable]; ok {
		if *s.spent += len(v); *s.spent > maxSpent {
			return s.mark(hole{why: "variables come to too much text"})
		}
		return v
	}
	return s.mark(hole{why: fmt.Sprintf("$%s is not set in this script", p.variable)})
}

// expanded is a word after expansion. One of which a piece is not known has no text.
type expanded struct {
	Word
	unknown string // why
	source  string // of the first hole in it
}

// expand puts values in the place of variables, and cuts those without quotes at blanks.
func (s *shell) expand(tokens []token) (words []expanded) {
	for _, t := range tokens {
		first := len(words)
		open := false // the last word goes on
		add := func(text string) {
			if !open {
				words = append(words, expanded{Word: Word{Start: t.start, End: t.end}})
				open = true
			}
			if w := &words[len(words)-1]; len(w.Text) > maxValue {
				w.unknown = "it is too long"
			} else {
				w.Text += text
			}
		}
		for _, p := range t.parts {
			value := s.value(p)
			if p.variable == "" || p.quoted {
				add(value)
				continue
			}
			open = open && strings.TrimLeft(value, " \t\n") == value
			for i, f := range strings.Fields(value) {
				open = open && i == 0
				add(f)
			}
			open = open && strings.TrimRight(value, " \t\n") == value
			if len(words) > maxWords {
				break
			}
		}
		for i := first; i < len(words); i++ {
			w := &words[i]
			w.Shared = len(words) > first+1
			if h, ok := s.holeIn(w.Text); ok {
				w.unknown, w.source = h.why, h.source
			}
			if w.unknown != "" {
				w.Text = ""
			}
		}
		if len(words) > maxWords {
			return words[:maxWords]
		}
	}
	return words
}

// maxWords of a command; ip takes fewer.
const maxWords = 4096
