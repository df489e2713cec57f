package cli

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// screen is where text for people goes.
type screen struct {
	width  int  // columns
	colour bool // it is a terminal that shows colours
}

// newScreen looks at what is behind w. Pipes get lines of 100 columns, terminals at most 120 of those
// they have; NO_COLOR (no-color.org) turns colours off.
func newScreen(w io.Writer) screen {
	s := screen{width: 100}
	f, ok := fileOf(w)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
		s.width = min(max(columns, 40), 120)
	}
	s.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

// Colours of the terminal (ECMA-48 SGR).
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (s screen) paint(colour, text string) string {
	if !s.colour || colour == "" || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// columns that text takes.
func columns(text string) int { return utf8.RuneCountInString(text) }

// wrap breaks text between words into lines of at most width columns; a longer word stands alone.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case columns(line)+1+columns(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// tree is a line, or a few, with what belongs to it below.
type tree struct {
	mark, colour string // in front; "" is none
	label        string // padded so that the texts of siblings stand below each other
	text         string // wrapped
	notes        []string
	children     []tree
}

// narrow is the least room for a text beside labels; where there is less it begins a line below.
const narrow = 30

// write writes the children of t, each line led by the branches of those above.
func (s screen) write(b *strings.Builder, children []tree, lead string) {
	widest := 0
	for _, c := range children {
		widest = max(widest, columns(c.label))
	}
	for i, c := range children {
		branch, below := "├─ ", "│  "
		if i == len(children)-1 {
			branch, below = "└─ ", "   "
		}
		inside := lead + below
		if len(c.children) > 0 {
			inside += "│  "
		}
		head, hang := c.label, 0 // columns of lead, branch and mark, below which further lines do not begin
		if c.mark != "" {
			head, hang = s.paint(c.colour, c.mark)+" "+c.label, 2
		}
		indent := columns(lead) + 3 + hang
		if beside := indent + widest + 2; c.label != "" && s.width-beside >= narrow {
			head += strings.Repeat(" ", widest-columns(c.label)+2)
			indent = beside
		} else if c.label != "" && c.text != "" {
			head += "\n"
		}
		indent = max(indent, columns(inside))
		next := inside + strings.Repeat(" ", indent-columns(inside))
		lines := wrap(c.text, s.width-indent)
		for k, l := range lines {
			if k > 0 || strings.HasSuffix(head, "\n") {
				l = next + l
			}
			head += l
			if k < len(lines)-1 {
				head += "\n"
			}
		}
		b.WriteString(lead + branch + strings.TrimRight(head, " ") + "\n")
		for _, note := range c.notes {
			for _, l := range wrap(note, s.width-indent) {
				b.WriteString(next + s.paint(dim, l) + "\n")
			}
		}
		s.write(b, c.children, lead+below)
	}
}
