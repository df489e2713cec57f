package xfrm

import (
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
)

// Line is one command of a script.
type Line struct {
	Number int      // of the line it begins on, from 1
	Words  []string // what follows `ip xfrm`; may hold keys
}

// ScriptError is a line that is not a command.
type ScriptError struct {
	Line    int
	Problem string
}

func (e *ScriptError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Problem) }

// maxScript bounds what ParseScript reads, in bytes.
const maxScript = 64 << 20

// ParseScript splits a script into commands: lines of `ip xfrm …` (also behind sudo),
// `xfrm …`, `espalier xfrm …`, `state …` and `policy …`. It knows quotes, backslashes,
// continued lines and comments as a shell does, and refuses what only a shell can do:
// variables, several commands on a line, redirection. Parentheses need no quotes, as in
// `ip -batch`. The words are not checked further. An error is a *ScriptError or r's.
func ParseScript(r io.Reader) (lines []Line, err error) {
	for line, err := range Lines(r) {
		if err != nil {
			return nil, err
		}
		line.Words = slices.Clone(line.Words)
		lines = append(lines, line)
	}
	return lines, nil
}

// Lines is ParseScript for long scripts: it yields line by line, and each line's Words only until
// the next. An error is the last it yields.
func Lines(r io.Reader) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		text, err := readScript(r)
		if err != nil {
			yield(Line{}, err)
			return
		}
		s := splitter{text: text, line: 1}
		for !s.atEnd() {
			number := s.line
			words, err := s.command()
			if err == nil && len(words) == 0 {
				continue
			}
			if err == nil {
				words, err = afterXfrm(words, number)
			}
			if err != nil {
				yield(Line{}, err)
				return
			}
			if !yield(Line{Number: number, Words: words}, nil) {
				return
			}
		}
	}
}

func readScript(r io.Reader) (string, error) {
	var b strings.Builder
	if file, ok := r.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := file.Stat(); err == nil {
			b.Grow(int(min(info.Size(), maxScript)) + 1)
		}
	}
	if _, err := io.Copy(&b, io.LimitReader(r, maxScript+1)); err != nil {
		return "", err
	}
	if b.Len() > maxScript {
		return "", fmt.Errorf("the script is longer than %d MiB", maxScript>>20)
	}
	text := b.String()
	bad := func(at int, problem string) (string, error) {
		return "", &ScriptError{Line: 1 + strings.Count(text[:at], "\n"), Problem: problem}
	}
	if i := strings.IndexByte(text, 0); i >= 0 {
		return bad(i, "this is not text")
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	if i := strings.IndexByte(text, '\r'); i >= 0 {
		return bad(i, "there is a carriage return within the line")
	}
	return text, nil
}

// afterXfrm takes off the program in front of the command.
func afterXfrm(words []string, number int) ([]string, error) {
	fail := func(format string, args ...any) ([]string, error) {
		return nil, &ScriptError{Line: number, Problem: fmt.Sprintf(format, args...)}
	}
	program := path.Base(words[0])
	if program == "sudo" && len(words) > 1 {
		words = words[1:]
		program = path.Base(words[0])
	}
	if program == "ip" || program == "espalier" {
		words = words[1:]
		if len(words) > 0 && strings.HasPrefix(words[0], "-") && !mayBeKey(words[0]) {
			return fail("options are given once for all lines: take %s out", words[0])
		}
		if len(words) == 0 || !isAbbreviation(words[0], "xfrm") {
			return fail("only the xfrm commands of %s are understood", program)
		}
	}
	if isAbbreviation(words[0], "xfrm") {
		words = words[1:]
	}
	known := func(word string) bool {
		return isAbbreviation(word, "state") || isAbbreviation(word, "policy") || isAbbreviation(word, "monitor")
	}
	if len(words) == 0 || !slices.ContainsFunc(words[:1], known) {
		return fail("this is not a command of ip xfrm: state … or policy … goes here")
	}
	return words, nil
}

// splitter cuts a text into words by the rules of a shell.
type splitter struct {
	text  string
	pos   int
	line  int
	words []string // of this line
}

func (s *splitter) atEnd() bool { return s.pos >= len(s.text) }

// take reads one byte and counts lines.
func (s *splitter) take() byte {
	b := s.text[s.pos]
	s.pos++
	if b == '\n' {
		s.line++
	}
	return b
}

// special are the bytes that mean more than themselves within a word.
var special = [256]bool{
	'\n': true, ' ': true, '\t': true, '\\': true, '\'': true, '"': true, '$': true, '`': true,
	';': true, '&': true, '|': true, '<': true, '>': true,
}

// plain reads what stands up to the next special byte.
func (s *splitter) plain() string {
	rest, n := s.text[s.pos:], 0
	for n < len(rest) && !special[rest[n]] {
		n++
	}
	s.pos += n
	return rest[:n]
}

func (s *splitter) fail(problem string) error {
	return &ScriptError{Line: s.line, Problem: problem}
}

// command reads the words up to the end of the line. They are good until the next line is read; a
// word without quotes is a part of the text, not a copy.
func (s *splitter) command() ([]string, error) {
	words := s.words[:0]
	word, inWord := "", false
line:
	for !s.atEnd() {
		if b := s.text[s.pos]; !special[b] && (b != '#' || inWord) {
			part := s.plain()
			if !inWord && s.atBlank() { // most words are all plain
				words = append(words, part)
				continue
			}
			word, inWord = word+part, true
			continue
		}
		switch b := s.take(); b {
		case '\n', ' ', '\t':
			if inWord {
				words = append(words, word)
			}
			word, inWord = "", false
			if b == '\n' {
				break line
			}
		case '#':
			s.comment()
		case '\\':
			if s.atEnd() {
				return nil, s.fail("a backslash at the end of the script has nothing to continue")
			}
			if s.take() != '\n' { // a continued line is one line
				word, inWord = word+s.text[s.pos-1:s.pos], true
			}
		case '\'', '"':
			quoted, err := s.quoted(b)
			if err != nil {
				return nil, err
			}
			word, inWord = word+quoted, true
		case '$', '`':
			return nil, s.fail("variables and substitutions are not expanded: write the value itself")
		default:
			return nil, s.fail(fmt.Sprintf("%q is for a shell: one command per line goes here", b))
		}
	}
	if inWord {
		words = append(words, word)
	}
	s.words = words
	return words, nil
}

// atBlank reports whether a plain word would end here.
func (s *splitter) atBlank() bool {
	return s.atEnd() || s.text[s.pos] == ' ' || s.text[s.pos] == '\n' || s.text[s.pos] == '\t'
}

// comment skips the rest of the line.
func (s *splitter) comment() {
	for !s.atEnd() && s.text[s.pos] != '\n' {
		s.pos++
	}
}

// quoted reads what stands up to the closing quote.
func (s *splitter) quoted(quote byte) (string, error) {
	opened := s.line
	var word []byte
	for !s.atEnd() {
		b := s.take()
		switch {
		case b == quote:
			return string(word), nil
		case quote == '"' && (b == '$' || b == '`'):
			return "", s.fail("variables and substitutions are not expanded: write the value itself")
		case quote == '"' && b == '\\' && !s.atEnd() && strings.IndexByte("\"\\$`\n", s.text[s.pos]) >= 0:
			if c := s.take(); c != '\n' {
				word = append(word, c)
			}
		default:
			word = append(word, b)
		}
	}
	return "", &ScriptError{Line: opened, Problem: "a quote is not closed"}
}
