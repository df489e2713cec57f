package script

import (
	"strings"
)

// lexer cuts a text into words and operators as a shell does.
type lexer struct {
	text     string
	pos, end int
	// literal: a dollar is a character like others, as in what `ip -batch` reads.
	literal bool
	docs    []*document // begun on this line
}

// token is a word, or an operator, which has a text of its own: ; & | && || ;; ( ) and the end of a line.
type token struct {
	parts      []part
	operator   string
	start, end int
	doc        *document // of the redirection that this token is
}

// part is a piece of a word.
type part struct {
	text     string
	variable string // name of one whose value goes here
	unknown  string // why this piece is not known
	quoted   bool   // so that it is not cut at blanks
}

// document is a here-document.
type document struct {
	delimiter  string
	indented   bool // by tabs, which go
	literal    bool // nothing is expanded in it
	start, end int
}

const (
	endOfLine = "\n"
	endOfText = ""
)

func (t *token) isWord() bool { return t.operator == "" && t.parts != nil }

// bare is the text of a word without quotes and variables, "" of others: that of keywords.
func (t *token) bare() string {
	if len(t.parts) == 1 && t.parts[0].variable == "" && t.parts[0].unknown == "" && !t.parts[0].quoted {
		return t.parts[0].text
	}
	return ""
}

// next reads a token. The last is an operator without a text.
func (l *lexer) next() token {
	for {
		l.blanks()
		start := l.pos
		if l.pos >= l.end {
			return token{start: start, end: start}
		}
		switch b := l.text[l.pos]; b {
		case '\n':
			l.pos++
			l.documents()
			return token{operator: endOfLine, start: start, end: start + 1}
		case ';', '&', '|':
			if strings.HasPrefix(l.text[l.pos:l.end], "&>") {
				l.pos++
				l.redirection()
				continue
			}
			l.pos++
			for l.pos < l.end && l.text[l.pos] == b && l.pos-start < 2 {
				l.pos++
			}
			return token{operator: l.text[start:l.pos], start: start, end: l.pos}
		case '(', ')':
			l.pos++
			return token{operator: string(b), start: start, end: l.pos}
		case '<', '>':
			if doc := l.redirection(); doc != nil {
				return token{doc: doc, start: start, end: l.pos}
			}
			continue
		}
		if n := digits(l.text[l.pos:l.end]); n > 0 && l.pos+n < l.end && strings.IndexByte("<>", l.text[l.pos+n]) >= 0 {
			l.pos += n // the descriptor that is redirected
			continue
		}
		parts := l.word()
		if l.pos == start { // nothing that a word begins with
			l.pos++
			continue
		}
		return token{parts: parts, start: start, end: l.pos}
	}
}

func digits(s string) (n int) {
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// blanks skips blanks, continued lines and comments.
func (l *lexer) blanks() {
	for l.pos < l.end {
		rest := l.text[l.pos:l.end]
		switch {
		case rest[0] == ' ', rest[0] == '\t', rest[0] == '\r':
			l.pos++
		case strings.HasPrefix(rest, "\\\n"):
			l.pos += 2
		case strings.HasPrefix(rest, "\\\r\n"):
			l.pos += 3
		case rest[0] == '#':
			for l.pos < l.end && l.text[l.pos] != '\n' {
				l.pos++
			}
		default:
			return
		}
	}
}

// redirection skips one with its word, and keeps a here-document in mind.
func (l *lexer) redirection() *document {
	operator := l.pos
	for l.pos < l.end && strings.IndexByte("<>&|", l.text[l.pos]) >= 0 {
		l.pos++
	}
	which := l.text[operator:l.pos]
	doc := &document{}
	if which == "<<" && l.pos < l.end && l.text[l.pos] == '-' {
		doc.indented = true
		l.pos++
	}
	if strings.HasSuffix(which, "&") && l.pos < l.end && l.text[l.pos] == '-' {
		l.pos++
		return nil
	}
	for l.pos < l.end && (l.text[l.pos] == ' ' || l.text[l.pos] == '\t') {
		l.pos++
	}
	start := l.pos
	parts := l.word()
	if which != "<<" {
		return nil
	}
	doc.literal = strings.ContainsAny(l.text[start:l.pos], `'"\`)
	for _, p := range parts {
		doc.delimiter += p.text
	}
	l.docs = append(l.docs, doc)
	return doc
}

// documents reads the here-documents that begin behind this line.
func (l *lexer) documents() {
	for _, d := range l.docs {
		d.start = l.pos
		for d.end = l.pos; l.pos < l.end; {
			line, _, _ := strings.Cut(l.text[l.pos:l.end], "\n")
			l.pos = min(l.pos+len(line)+1, l.end)
			if d.indented {
				line = strings.TrimLeft(line, "\t")
			}
			if strings.TrimSuffix(line, "\r") == d.delimiter {
				break
			}
			d.end = l.pos
		}
	}
	l.docs = nil
}

// word reads up to a byte that ends it. Parentheses within it need no quotes, as in `ip -batch`.
func (l *lexer) word() (parts []part) {
	depth := 0
	var plain strings.Builder
	started := false
	flush := func() {
		if plain.Len() > 0 {
			parts = append(parts, part{text: plain.String()})
			plain.Reset()
		}
	}
	for l.pos < l.end {
		switch b := l.text[l.pos]; b {
		case ' ', '\t', '\n', '\r', ';', '&', '|', '<', '>':
			flush()
			return parts
		case '(':
			if !started || l.pos+1 < l.end && l.text[l.pos+1] == ')' { // name() is a function
				flush()
				return parts
			}
			depth++
			plain.WriteByte(b)
			l.pos++
		case ')':
			if depth == 0 {
				flush()
				return parts
			}
			depth--
			plain.WriteByte(b)
			l.pos++
		case '\\':
			l.pos++
			if l.pos < l.end {
				if l.text[l.pos] != '\n' {
					plain.WriteByte(l.text[l.pos])
				}
				l.pos++
			}
		case '\'':
			flush()
			l.pos++
			text, closed := l.upTo('\'')
			parts = append(parts, part{text: text, quoted: true})
			if !closed {
				parts[len(parts)-1].unknown = "a quote is not closed"
			}
		case '"':
			flush()
			l.pos++
			parts = append(parts, l.doubleQuoted()...)
		case '$', '`':
			if p, ok := l.expansion(false); ok {
				flush()
				parts = append(parts, p)
			} else {
				plain.WriteByte(b)
				l.pos++
			}
		default:
			plain.WriteByte(b)
			l.pos++
		}
		started = true
	}
	flush()
	return parts
}

func (l *lexer) upTo(b byte) (text string, found bool) {
	start := l.pos
	for l.pos < l.end {
		if l.text[l.pos] == b {
			l.pos++
			return l.text[start : l.pos-1], true
		}
		l.pos++
	}
	return l.text[start:l.pos], false
}

func (l *lexer) doubleQuoted() (parts []part) {
	var plain strings.Builder
	flush := func() {
		parts = append(parts, part{text: plain.String(), quoted: true})
		plain.Reset()
	}
	for l.pos < l.end {
		b := l.text[l.pos]
		switch {
		case b == '"':
			l.pos++
			if plain.Len() > 0 || len(parts) == 0 {
				flush()
			}
			return parts
		case b == '\\' && l.pos+1 < l.end && strings.IndexByte("\"\\$`\n", l.text[l.pos+1]) >= 0:
			if c := l.text[l.pos+1]; c != '\n' {
				plain.WriteByte(c)
			}
			l.pos += 2
		case b == '$' || b == '`':
			if p, ok := l.expansion(true); ok {
				if plain.Len() > 0 {
					flush()
				}
				parts = append(parts, p)
				continue
			}
			fallthrough
		default:
			plain.WriteByte(b)
			l.pos++
		}
	}
	return append(parts, part{unknown: "a quote is not closed", quoted: true})
}

// expansion reads what a dollar or a backquote begins; false: it is a character like others.
func (l *lexer) expansion(quoted bool) (part, bool) {
	if l.literal {
		return part{}, false
	}
	p := part{quoted: quoted}
	if l.text[l.pos] == '`' {
		l.pos++
		for l.pos < l.end && l.text[l.pos] != '`' {
			if l.text[l.pos] == '\\' {
				l.pos++
			}
			l.pos++
		}
		l.pos = min(l.pos+1, l.end)
		p.unknown = "a command substitution"
		return p, true
	}
	rest := l.text[l.pos+1 : l.end]
	switch n := identifier(rest); {
	case n > 0:
		p.variable = rest[:n]
		l.pos += 1 + n
	case strings.HasPrefix(rest, "("):
		l.pos += 2
		l.parentheses()
		p.unknown = "a command substitution"
		if strings.HasPrefix(rest, "((") {
			p.unknown = "arithmetic"
		}
	case strings.HasPrefix(rest, "{"):
		l.pos += 2
		l.braces(&p)
	case rest != "" && strings.IndexByte("0123456789@*#?$!-", rest[0]) >= 0:
		l.pos += 2
		p.unknown = "an argument of the script"
	case !quoted && strings.HasPrefix(rest, "'"), !quoted && strings.HasPrefix(rest, "\""):
		l.pos++
		p.unknown = "a quote of another kind"
	default:
		return p, false
	}
	return p, true
}

// identifier is how many bytes of a name s begins with.
func identifier(s string) (n int) {
	for n < len(s) && (s[n] == '_' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	return n
}

// parentheses skips to the one that closes, quotes minded.
func (l *lexer) parentheses() {
	for depth := 1; l.pos < l.end && depth > 0; l.pos++ {
		switch l.text[l.pos] {
		case '(':
			depth++
		case ')':
			depth--
		case '\\':
			l.pos++
		case '\'', '"':
			quote := l.text[l.pos]
			for l.pos++; l.pos < l.end && l.text[l.pos] != quote; l.pos++ {
				if quote == '"' && l.text[l.pos] == '\\' {
					l.pos++
				}
			}
		}
	}
	l.pos = min(l.pos, l.end)
}

// braces reads ${NAME}, and of what else there is ${NAME:?text}, which changes nothing.
func (l *lexer) braces(p *part) {
	start := l.pos
	for depth := 1; l.pos < l.end; l.pos++ {
		if b := l.text[l.pos]; b == '{' {
			depth++
		} else if b == '}' {
			if depth--; depth == 0 {
				break
			}
		}
	}
	inside := l.text[start:l.pos]
	l.pos = min(l.pos+1, l.end)
	n := identifier(inside)
	switch after := inside[n:]; {
	case n > 0 && (after == "" || strings.HasPrefix(after, ":?") || strings.HasPrefix(after, "?")):
		p.variable = inside[:n]
	default:
		p.unknown = "an expansion that takes a shell"
	}
}
