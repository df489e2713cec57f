package cli

import (
	"fmt"
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

// columns that text takes. Colours (ECMA-48 SGR) take none.
func columns(text string) (n int) {
	colour := false
	for _, r := range text {
		switch {
		case r == '\x1b':
			colour = true
		case !colour:
			n++
		case r == 'm':
			colour = false
		}
	}
	return n
}

// wrap breaks text between words into lines of at most width columns; a longer word stands alone, or is cut where
// there is little room.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && columns(line)+1+columns(word) <= width {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		for columns(word) > width && width < roomy {
			at := cutAt(word, max(width, leastColumns))
			if at == len(word) {
				break
			}
			lines, word = append(lines, word[:at]), word[at:]
		}
		line = word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

const (
	roomy        = 60 // columns in which a word that is longer is left whole, to be copied
	leastColumns = 8  // of a line, however far it begins from the left
)

// cutAt is where a word is cut that has no room in width columns: behind a sign of punctuation, if there is one.
func cutAt(word string, width int) int {
	n, end, best := 0, len(word), 0
	for i, r := range word {
		if n == width {
			end = i
			break
		}
		n++
		if strings.ContainsRune("/,-=:_.@", r) && n > width/2 {
			best = i + utf8.RuneLen(r)
		}
	}
	if end == len(word) || best == 0 {
		return end
	}
	return best
}

// tree is a line, or a few, with what belongs to it below.
type tree struct {
	mark, colour string   // in front; "" is none
	label        string   // padded so that the texts of siblings stand below each other
	text         string   // wrapped
	items        []string // behind the text, as many as one line has room for
	notes        []string // below it, wrapped
	brief        bool     // notes are cut, and begin below the label
	children     []tree
}

// briefly is how many lines a brief note has at the most.
const briefly = 2

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
		} else if c.label != "" && (c.text != "" || len(c.items) > 0) {
			head += "\n"
		}
		indent = max(indent, columns(inside))
		next := inside + strings.Repeat(" ", indent-columns(inside))
		lines := wrap(c.text, s.width-indent)
		if len(c.items) > 0 {
			lines = []string{strings.TrimSpace(c.text + " " + fitting(c.items, s.width-indent-columns(c.text)-1))}
		}
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
			if c.brief {
				next = inside + strings.Repeat(" ", max(columns(lead)+3+hang-columns(inside), 0))
			}
			written := wrap(note, s.width-columns(next))
			if c.brief && len(written) > briefly {
				written = append(written[:briefly-1], cut(written[briefly-1], s.width-columns(next)-1)+"…")
			}
			for _, l := range written {
				b.WriteString(next + s.paint(dim, l) + "\n")
			}
		}
		s.write(b, c.children, lead+below)
	}
}

// fitting are as many items as width columns have room for, and how many there are besides.
func fitting(items []string, width int) string {
	all := strings.Join(items, ", ")
	for n := len(items) - 1; columns(all) > width && n >= 0; n-- {
		if n == 0 {
			return plural(len(items), "answer")
		}
		all = fmt.Sprintf("%s and %d more", strings.Join(items[:n], ", "), len(items)-n)
	}
	return all
}
