package xfrm

import (
	"bytes"
	"fmt"
	"io"
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
func ParseScript(r io.Reader) ([]Line, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxScript+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxScript {
		return nil, fmt.Errorf("the script is longer than %d MiB", maxScript>>20)
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, &ScriptError{Line: 1 + bytes.Count(text[:i], []byte("\n")), Problem: "this is not text"}
	}
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if i := bytes.IndexByte(text, '\r'); i >= 0 {
		return nil, &ScriptError{Line: 1 + bytes.Count(text[:i], []byte("\n")), Problem: "there is a carriage return within the line"}
	}
	s := splitter{text: text, line: 1}
	var lines []Line
	for !s.atEnd() {
		number := s.line
		words, err := s.command()
		if err != nil {
			return nil, err
		}
		if len(words) == 0 {
			continue
		}
		if words, err = afterXfrm(words, number); err != nil {
			return nil, err
		}
		lines = append(lines, Line{Number: number, Words: words})
	}
	return lines, nil
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
	text []byte
	pos  int
	line int
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

func (s *splitter) fail(problem string) error {
	return &ScriptError{Line: s.line, Problem: problem}
}

// command reads the words up to the end of the line.
func (s *splitter) command() ([]string, error) {
	var words []string
	var word []byte
	inWord := false
	end := func() {
		if inWord {
			words = append(words, string(word))
		}
		word, inWord = word[:0], false
	}
	for !s.atEnd() {
		switch b := s.take(); b {
		case '\n':
			end()
			return words, nil
		case ' ', '\t':
			end()
		case '#':
			if inWord {
				word = append(word, b)
				continue
			}
			for !s.atEnd() && s.text[s.pos] != '\n' {
				s.pos++
			}
		case '\\':
			if s.atEnd() {
				return nil, s.fail("a backslash at the end of the script has nothing to continue")
			}
			if c := s.take(); c != '\n' { // a continued line is one line
				word, inWord = append(word, c), true
			}
		case '\'', '"':
			var err error
			if word, err = s.quoted(b, word); err != nil {
				return nil, err
			}
			inWord = true
		case '$', '`':
			return nil, s.fail("variables and substitutions are not expanded: write the value itself")
		case ';', '&', '|', '<', '>':
			return nil, s.fail(fmt.Sprintf("%q is for a shell: one command per line goes here", b))
		default:
			word, inWord = append(word, b), true
		}
	}
	end()
	return words, nil
}

// quoted appends what stands up to the closing quote.
func (s *splitter) quoted(quote byte, word []byte) ([]byte, error) {
	opened := s.line
	for !s.atEnd() {
		b := s.take()
		switch {
		case b == quote:
			return word, nil
		case quote == '"' && (b == '$' || b == '`'):
			return nil, s.fail("variables and substitutions are not expanded: write the value itself")
		case quote == '"' && b == '\\' && !s.atEnd() && strings.IndexByte("\"\\$`\n", s.text[s.pos]) >= 0:
			if c := s.take(); c != '\n' {
				word = append(word, c)
			}
		default:
			word = append(word, b)
		}
	}
	return nil, &ScriptError{Line: opened, Problem: "a quote is not closed"}
}
