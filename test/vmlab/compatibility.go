package vmlab

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Doc is a file that runs in the VM lab write: what cases came to, by kernel.
type Doc struct {
	File     string
	Preamble string // before the tables
	Case     string // what stands above the cases
}

// Compatibility is what kernels answer.
var Compatibility = Doc{"../../docs/compatibility.md", compatibilityPreamble, "case"}

// Verdicts is what espalier status says, beside the truth.
var Verdicts = Doc{"../../docs/verdict.md", verdictPreamble, "scenario"}

const compatibilityPreamble = `# What kernels answer

Each cell is what a kernel of Debian's came to in the VM lab (test/vmlab), written by the run
itself: ` + "`VMLAB_WRITE_DOCS=1 go test ./test/vmlab/`" + `. Software means that the kernel encrypts, whatever
was asked for. Of the userspace device and the kernel's ESP, "passes" means: pings both ways, 1 MiB of
TCP each way while the SAs are exchanged for new ones, packets of 11 sizes up to more than the link
takes; and packets sent a second time are refused at both ends.
`

const verdictPreamble = `# Who encrypts: the truth, and what status says of it

Scenarios of the VM lab (test/vmlab), written by the run itself: ` + "`VMLAB_WRITE_DOCS=1 go test ./test/vmlab/`" + `.
In each cell stands, before the arrow, who really encrypts (or, of an SA for receiving, decrypts), and
behind it the verdict of ` + "`espalier status`" + `. The truth comes from what the verdict has no part in: the notes
that the lab's driver keeps of its engine's work for each SA, the cable behind the NIC, and the kernel's
counters of SAs. The lab's driver is called trusted hardware, but for the release, which knows better.

No host can tell by itself that a NIC forges its counters, and status says so beside the verdict. That is what
` + "`espalier verify`" + ` is for: it asks the peer, or a tap on the wire, and each of these must fail it.
`

// Check compares the outcomes of a run with what the file says of this kernel's series, or
// writes them there if VMLAB_WRITE_DOCS is 1. A series that the file does not know is let be.
func (d Doc) Check(t *testing.T, k Kernel, outcomes []Outcome) {
	t.Helper()
	file := d.File
	old, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	c := compatibility{doc: d}
	c.read(string(old))
	write := os.Getenv("VMLAB_WRITE_DOCS") == "1"
	if !write && !slices.Contains(c.kernels, k.Series()) {
		t.Logf("%s says nothing of Linux %s", file, k.Series())
		return
	}
	c.set(k.Series(), outcomes)
	text := c.text()
	switch {
	case text == string(old):
	case write:
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is stale for Linux %s; VMLAB_WRITE_DOCS=1 makes it:\n%s", file, k.Series(), text)
	}
}

// compatibility is the content of the file: cases by kernel, in sections.
type compatibility struct {
	doc     Doc
	kernels []string
	cases   []row
}

type row struct {
	section, name string
	results       map[string]string // by kernel
}

// set replaces what is known of a kernel.
func (c *compatibility) set(kernel string, outcomes []Outcome) {
	for _, r := range c.cases {
		delete(r.results, kernel)
	}
	for _, o := range outcomes {
		c.put(kernel, o)
	}
	c.cases = slices.DeleteFunc(c.cases, func(r row) bool { return len(r.results) == 0 })
}

func (c *compatibility) put(kernel string, o Outcome) {
	if !slices.Contains(c.kernels, kernel) {
		c.kernels = append(c.kernels, kernel)
		slices.SortFunc(c.kernels, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
	}
	at := slices.IndexFunc(c.cases, func(r row) bool { return r.section == o.Section && r.name == o.Case })
	if at < 0 {
		// Behind the section's last case.
		at = len(c.cases)
		for i, r := range c.cases {
			if r.section == o.Section {
				at = i + 1
			}
		}
		c.cases = slices.Insert(c.cases, at, row{o.Section, o.Case, make(map[string]string)})
	}
	c.cases[at].results[kernel] = o.Result
}

func (c *compatibility) text() string {
	var b strings.Builder
	b.WriteString(c.doc.Preamble)
	section := ""
	for _, r := range c.cases {
		if r.section != section {
			section = r.section
			fmt.Fprintf(&b, "\n## %s\n\n| %s | %s |\n|%s\n", section, c.doc.Case, strings.Join(c.kernels, " | "), strings.Repeat(" --- |", 1+len(c.kernels)))
		}
		fmt.Fprintf(&b, "| %s |", r.name)
		for _, k := range c.kernels {
			result := r.results[k]
			if result == "" {
				result = "–"
			}
			fmt.Fprintf(&b, " %s |", result)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// read takes over what text has written.
func (c *compatibility) read(text string) {
	var section string
	var kernels []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if s, ok := strings.CutPrefix(line, "## "); ok {
			section = s
		}
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| --- ") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if cells[0] == c.doc.Case {
			kernels = cells[1:]
			continue
		}
		for i, k := range kernels {
			if i+1 < len(cells) && cells[i+1] != "–" {
				c.put(k, Outcome{section, cells[0], cells[i+1]})
			}
		}
	}
}
