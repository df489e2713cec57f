package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"espalier/lint"
)

// lintView is the JSON of `espalier lint`.
type lintView struct {
	Schema   string         `json:"schema"`
	OK       bool           `json:"ok"` // nothing is wrong, or left to do
	Hosts    []lintHostView `json:"hosts"`
	Findings []lint.Finding `json:"findings"`
	Fixed    *fixedView     `json:"fixed,omitempty"` // with --fix
}

type lintHostView struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"` // its own, as far as the scripts tell
	Files     []string `json:"files"`
	SAs       int      `json:"sas"` // after all lines
	Policies  int      `json:"policies"`
}

type fixedView struct {
	Files  []fixedFileView `json:"files"`
	Mended []lint.Finding  `json:"mended"`
	Left   []lint.Left     `json:"left"` // in the corrected scripts, with their lines
}

type fixedFileView struct {
	File string `json:"file"`
	To   string `json:"to"`
}

func viewLint(r *lint.Report) *lintView {
	v := &lintView{Schema: schemaOf("lint"), OK: len(r.Findings) == 0, Hosts: []lintHostView{}, Findings: append([]lint.Finding{}, r.Findings...)}
	for _, h := range r.Hosts {
		v.Hosts = append(v.Hosts, lintHostView{h.Name, texts(h.Addresses), h.Files, len(h.States), len(h.Policies)})
	}
	return v
}

// writeLint writes the findings for people, as compilers do, but the worst first and those that are alike together.
func writeLint(w io.Writer, v *lintView) error {
	t := lintText{screen: newScreen(w)}
	if v.Fixed == nil {
		var told []lintLine
		for _, f := range v.Findings {
			told = append(told, lintLine{f, "fix: " + f.Fix})
		}
		t.findings(told)
	} else {
		t.mended(v.Fixed.Mended)
		var told []lintLine
		for _, f := range v.Fixed.Left {
			told = append(told, lintLine{f.Finding, "left: " + f.Why + ". To do: " + f.Fix})
		}
		t.findings(told)
		if len(v.Fixed.Files) > 0 {
			t.b.WriteByte('\n')
		}
		for _, f := range v.Fixed.Files {
			t.line(fmt.Sprintf("%s: corrected as %s (mode 0600)", f.File, f.To), 4)
		}
	}
	t.summary(v)
	_, err := io.WriteString(w, t.b.String())
	return err
}

// lintLine is a finding, and what to say about it.
type lintLine struct {
	lint.Finding
	what string
}

type lintText struct {
	screen
	b strings.Builder
}

// line wraps a text; what does not fit goes below it, indented.
func (t *lintText) line(text string, indent int) {
	lines := wrap(text, t.width-indent)
	t.b.WriteString(strings.Join(lines, "\n"+strings.Repeat(" ", indent)) + "\n")
}

// findings writes them in the order of severity and kind.
func (t *lintText) findings(told []lintLine) {
	kinds := map[lint.ID]int{}
	for i, k := range lint.Kinds {
		kinds[k.ID] = i
	}
	severities := []lint.Severity{lint.Error, lint.Warning, lint.Note}
	slices.SortStableFunc(told, func(a, b lintLine) int {
		return cmp.Or(cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity)), cmp.Compare(kinds[a.ID], kinds[b.ID]))
	})
	type kind struct {
		id         lint.ID
		text, what string
	}
	alike := map[kind][]*lintLine{}
	for i := range told {
		k := kind{told[i].ID, told[i].Text, told[i].what}
		alike[k] = append(alike[k], &told[i])
	}
	for i := range told {
		f := &told[i]
		same := alike[kind{f.ID, f.Text, f.what}]
		if same[0] != f {
			continue
		}
		text := f.About + ": " + f.Text
		if f.Counter != "" && !strings.Contains(f.Text, f.Counter) {
			text += " (" + f.Counter + ")"
		}
		colour := map[lint.Severity]string{lint.Error: red, lint.Warning: yellow}[f.Severity]
		severity := ": " + string(f.Severity) + ": "
		lines := strings.Join(wrap(f.Position()+severity+text+" ["+string(f.ID)+"]", t.width-4), "\n    ")
		t.b.WriteString(strings.Replace(lines, severity, ": "+t.paint(colour, string(f.Severity))+": ", 1) + "\n") // what paints has no width
		for _, other := range same[1:] {
			t.line(other.Position()+": the same: "+other.About, 4)
		}
		for k, l := range wrap(f.what, t.width-8) {
			t.b.WriteString(strings.Repeat(" ", 4+4*min(k, 1)) + l + "\n")
		}
	}
}

// mended writes what was put right, a line for each kind.
func (t *lintText) mended(found []lint.Finding) {
	places := map[lint.ID][]string{}
	for _, f := range found {
		places[f.ID] = append(places[f.ID], f.Position())
	}
	for _, k := range lint.Kinds {
		if at := places[k.ID]; at != nil {
			t.line(t.paint(green, "put right")+": "+strings.TrimSuffix(k.Title, ".")+": "+strings.Join(at, ", ")+" ["+string(k.ID)+"]", 4)
		}
	}
	if len(found) > 0 {
		t.b.WriteByte('\n')
	}
}

// summary says what was looked at, and how much is wrong.
func (t *lintText) summary(v *lintView) {
	left := v.Findings
	if v.Fixed != nil {
		left = nil
		for _, l := range v.Fixed.Left {
			left = append(left, l.Finding)
		}
	}
	if len(left) > 0 || v.Fixed != nil {
		t.b.WriteByte('\n')
	}
	for _, h := range v.Hosts {
		addresses := "addresses not known"
		if n := len(h.Addresses); n > 3 {
			addresses = fmt.Sprintf("%s and %d more", h.Addresses[0], n-1)
		} else if n > 0 {
			addresses = strings.Join(h.Addresses, ", ")
		}
		t.line(fmt.Sprintf("%s (%s): %s, %s", h.Name, addresses, plural(h.SAs, "SA"), policies(h.Policies)), 4)
	}
	counts := map[lint.Severity]int{}
	for _, f := range left {
		counts[f.Severity]++
	}
	var parts []string
	for _, s := range []lint.Severity{lint.Error, lint.Warning, lint.Note} {
		if n := counts[s]; n > 0 {
			parts = append(parts, plural(n, string(s)))
		}
	}
	switch {
	case len(parts) == 0 && v.Fixed == nil:
		parts = []string{"nothing is wrong"}
	case v.Fixed != nil:
		parts = append([]string{fmt.Sprintf("%d put right", len(v.Fixed.Mended))}, parts...)
		if len(left) > 0 {
			parts[len(parts)-1] += " left"
		}
	}
	t.b.WriteString(strings.Join(parts, ", "))
	if v.Fixed == nil && slices.ContainsFunc(left, func(f lint.Finding) bool { k, _ := lint.KindOf(f.ID); return k.Mended }) {
		t.b.WriteString(" (--fix writes corrected scripts, as far as it is clear what is meant)")
	}
	t.b.WriteByte('\n')
}

func policies(n int) string {
	if n == 1 {
		return "1 policy"
	}
	return fmt.Sprintf("%d policies", n)
}
