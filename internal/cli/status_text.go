package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"espalier/lint"
	"espalier/verdict"
)

// statusText lays a status out for a person.
type statusText struct {
	screen
	b strings.Builder
}

// writeStatus writes a status as text.
func writeStatus(w io.Writer, s screen, v *statusView) error {
	t := statusText{screen: s}
	t.headline(v)
	findings := 20
	if len(v.Pairs) > manyPairs {
		findings = mostFindings
		t.many(v)
	} else {
		for i := range v.Pairs {
			t.pair(&v.Pairs[i])
		}
	}
	t.gone(v.Gone)
	t.findings(v.Findings, findings)
	t.drops(v)
	t.unchecked(v)
	_, err := io.WriteString(w, t.b.String())
	return err
}

func (t *statusText) line(indent int, format string, args ...any) {
	lead := strings.Repeat(" ", indent)
	text := fmt.Sprintf(format, args...)
	if columns(text) <= t.width-indent {
		t.b.WriteString(lead + strings.Join(strings.Fields(text), " ") + "\n")
		return
	}
	for i, l := range wrap(text, t.width-indent-2) {
		if i == 1 {
			lead += "  "
		}
		t.b.WriteString(lead + l + "\n")
	}
}

// headline is the verdict on all, and how many there are.
func (t *statusText) headline(v *statusView) {
	if len(v.Pairs) == 0 && len(v.only) > 0 {
		t.line(0, "no SA is offloaded to %s", strings.Join(v.only, ", "))
		return
	}
	if len(v.Pairs) == 0 && v.Policies == 0 {
		return // the caller says how to begin
	}
	counts := map[verdict.Verdict]int{}
	for i := range v.Pairs {
		counts[v.Pairs[i].Verdict]++
	}
	what := plural(len(v.Pairs), "SA pair") + ", " + plural(v.Policies, "policy")
	if len(counts) > 1 {
		var parts []string
		for _, verdict := range verdictOrder {
			if n := counts[verdict]; n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", n, verdict))
			}
		}
		what += ": " + strings.Join(parts, ", ")
	}
	name := string(v.Verdict)
	if len(v.Pairs) == 0 {
		name = "NO SA"
	}
	if v.Interval >= 0.1 {
		what += fmt.Sprintf(", over %.1f s", v.Interval)
	}
	for i, l := range wrap(what, t.width-columns(name)-2) {
		lead := t.paint(colourOf(v.Verdict), name)
		if i > 0 {
			lead = strings.Repeat(" ", columns(name))
		}
		t.b.WriteString(lead + "  " + l + "\n")
	}
}

var verdictOrder = []verdict.Verdict{verdict.Hardware, verdict.Emulated, verdict.Software, verdict.Mixed, verdict.Idle, verdict.Unknown}

func colourOf(v verdict.Verdict) string {
	switch v {
	case verdict.Hardware:
		return green
	case verdict.Unknown, verdict.Mixed:
		return yellow
	}
	return bold
}

func (t *statusText) pair(p *pairView) {
	t.b.WriteByte('\n')
	t.line(0, "%s ↔ %s: %s", p.Local, p.Peer, t.paint(colourOf(p.Verdict), string(p.Verdict)))
	t.line(2, "%s", pairFacts(p))
	rows := [][]string{}
	for _, sa := range p.sas() {
		rows = append(rows, saRow(sa))
	}
	t.rows(rows)
	for _, sa := range p.sas() {
		if line := forecast(sa); line != "" {
			t.line(7, "%s", line)
		}
		if line := refused(sa); line != "" {
			t.line(7, "%s", t.paint(yellow, line))
		}
	}
	t.why(p)
}

// pairFacts are the mode and what both SAs have in common.
func pairFacts(p *pairView) string {
	sas := p.sas()
	facts := []string{p.Mode}
	same := func(of func(*saView) string) {
		first := of(sas[0])
		if last := of(sas[len(sas)-1]); last != first {
			first += " out, " + last + " in"
		}
		if first != "" {
			facts = append(facts, first)
		}
	}
	same(func(sa *saView) string { return sa.Cipher })
	same(func(sa *saView) string {
		if sa.ESN {
			return "ESN"
		}
		return ""
	})
	same(func(sa *saView) string { return sa.Encap })
	same(func(sa *saView) string {
		if sa.Offload == nil {
			return "no offload"
		}
		return sa.Offload.Mode + " offload to " + sa.Offload.Dev
	})
	same(func(sa *saView) string { return "reqid " + reqidText(sa.Reqid) })
	return strings.Join(facts, ", ")
}

func reqidText(n uint32) string {
	if n < 1<<16 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%#x", n)
}

// saRow are the columns of one SA.
func saRow(sa *saView) []string {
	age := ""
	if sa.Age != nil {
		age = lasting(*sa.Age) + " old"
	}
	verb := map[string]string{"out": "sent", "in": "received"}[sa.Direction]
	return []string{sa.Direction, sa.SPI, age, amount(float64(sa.Bytes)) + " " + verb, bitRate(sa.BPS), packetRate(sa.PPS)}
}

// forecast says what an SA comes to its end by, if that is less than three months away or it is used
// up by a tenth.
func forecast(sa *saView) string {
	var parts []string
	if b := soonest(sa.Budgets, false); b != nil && b.near() {
		parts = append(parts, fmt.Sprintf("%s %s", softly[b.What], in(*b.Left)))
	}
	if b := soonest(sa.Budgets, true); b != nil && b.near() {
		parts = append(parts, fmt.Sprintf("%s %s (%s used)", endings[b.What], in(*b.Left), percent(b.share())))
	}
	for i := range sa.Budgets {
		if b := &sa.Budgets[i]; b.Left == nil && b.share() >= 0.5 {
			parts = append(parts, fmt.Sprintf("%s of its %s used", percent(b.share()), limitNames[b.What]))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return sa.Direction + ": " + strings.Join(parts, "; ")
}

// near reports whether the end of a budget is worth a line.
func (b *budget) near() bool { return *b.Left < 90*24*3600 || b.share() >= 0.1 }

var (
	limitNames = map[string]string{"sequence": "sequence numbers", "nonces": "nonces", "low-half": "first 2^32 numbers", "bytes": "bytes", "packets": "packets", "age": "time", "use": "time of use"}
	softly     = map[string]string{"bytes": "soft limit of bytes", "packets": "soft limit of packets", "age": "soft limit of time", "use": "soft limit of time of use",
		"nonces": "numbers and nonces begin again (oseq-may-wrap): replace it before that,", "low-half": "numbers pass 2^32, where NICs may fail: replace it before that,"}
	endings = map[string]string{"sequence": "sequence numbers end", "bytes": "limit of bytes is reached", "packets": "limit of packets is reached", "age": "expires", "use": "expires"}
)

func in(seconds float64) string {
	if seconds < 1 {
		return "now"
	}
	return "in " + lasting(seconds)
}

func percent(share float64) string {
	switch p := 100 * share; {
	case p == 0:
		return "none"
	case p < 0.1:
		return "< 0.1 %"
	case p < 10:
		return fmt.Sprintf("%.1f %%", p)
	default:
		return fmt.Sprintf("%.0f %%", p)
	}
}

// refused says what an SA dropped.
func refused(sa *saView) string {
	var parts []string
	for _, d := range []struct {
		n, moved uint64
		what     string
	}{
		{sa.Replayed, sa.Interval.Replayed, "seen before"},
		{sa.Late, sa.Interval.Late, "older than the window"},
		{sa.Forged, sa.Interval.Forged, "with a wrong ICV"},
	} {
		if d.n == 0 {
			continue
		}
		text := fmt.Sprintf("%d %s", d.n, d.what)
		if d.moved > 0 {
			text += fmt.Sprintf(" (%d now)", d.moved)
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return ""
	}
	return sa.Direction + ": dropped " + strings.Join(parts, ", ")
}

// why is told once if it is the same for both.
func (t *statusText) why(p *pairView) {
	sas := p.sas()
	if len(sas) == 2 && sas[0].Why == sas[1].Why {
		t.line(7, "%s", sas[0].Why)
		return
	}
	for _, sa := range sas {
		lead := ""
		if len(sas) == 2 {
			lead = sa.Direction + ": "
			if sa.Verdict != p.Verdict {
				lead += string(sa.Verdict) + ", "
			}
		}
		t.line(7, "%s%s", lead, sa.Why)
	}
}

func (t *statusText) gone(gone []goneView) {
	for _, g := range gone {
		why := ""
		if !g.Up {
			why = ": the kernel deletes them with their link, without an event; add them again when it is back"
		}
		t.b.WriteByte('\n')
		t.line(0, "%s to %s went meanwhile%s", plural(g.SAs, "SA")+" offloaded", g.Device, why)
	}
}

func (t *statusText) findings(findings []lint.Finding, most int) {
	if len(findings) > 0 {
		t.b.WriteByte('\n')
	}
	for i, f := range findings {
		if i == most {
			t.line(0, "and %d more (-o json has them all)", len(findings)-most)
			break
		}
		colour := map[lint.Severity]string{lint.Error: red, lint.Warning: yellow}[f.Severity]
		lines := wrap(fmt.Sprintf("%s: %s: %s", f.Severity, f.About, f.Text), t.width-2)
		lines[0] = t.paint(colour, string(f.Severity)) + strings.TrimPrefix(lines[0], string(f.Severity))
		t.b.WriteString(strings.Join(lines, "\n  ") + "\n")
		t.line(2, "fix: %s", f.Fix)
	}
}

func (t *statusText) drops(v *statusView) {
	var now, before []moveView
	for _, d := range v.Drops {
		if d.Moved > 0 {
			now = append(now, d)
		} else {
			before = append(before, d)
		}
	}
	if len(now) > 0 {
		fmt.Fprintf(&t.b, "\ndropped meanwhile:\n")
	}
	for _, d := range now {
		t.line(2, "%d %s: %s", d.Moved, d.name(), d.Meaning)
		if len(d.Causes) > 0 {
			t.line(4, "likely: %s (espalier explain %s)", d.Causes[0], d.Reason)
		}
	}
	if len(before) > 0 {
		var parts []string
		for _, d := range before {
			parts = append(parts, fmt.Sprintf("%s %d", d.Reason, d.Total))
		}
		t.b.WriteByte('\n')
		t.line(0, "dropped before: %s (espalier explain)", strings.Join(parts, ", "))
	}
}

func (m *moveView) name() string {
	if m.Counter == "" || m.Counter == m.Reason {
		return m.Reason
	}
	return m.Reason + " (" + m.Counter + ")"
}

// unchecked says once what could still be otherwise.
func (t *statusText) unchecked(v *statusView) {
	var all []string
	for i := range v.Pairs {
		for _, sa := range v.Pairs[i].sas() {
			for _, u := range sa.Unchecked {
				if !slices.Contains(all, u) {
					all = append(all, u)
				}
			}
		}
	}
	if len(all) > 0 {
		t.b.WriteByte('\n')
		t.line(0, "not checked: %s", strings.Join(all, "; "))
	}
}

// rows are a table, or lines of what there is where that is too wide.
func (t *statusText) rows(rows [][]string) {
	lines := pad(rows)
	for i, line := range lines {
		if columns(line)+2 > t.width {
			cells := slices.DeleteFunc(slices.Clone(rows[i]), func(cell string) bool { return cell == "" })
			t.line(2, "%s", strings.Join(cells, ", "))
			continue
		}
		t.b.WriteString("  " + line + "\n")
	}
}

// pad sets columns below each other.
func pad(rows [][]string) (lines []string) {
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			widest := 0
			for _, r := range rows {
				widest = max(widest, columns(r[i]))
			}
			line.WriteString(cell)
			if widest > 0 {
				line.WriteString(strings.Repeat(" ", widest-columns(cell)+2))
			}
		}
		lines = append(lines, strings.TrimRight(line.String(), " "))
	}
	return lines
}

// writeWide writes one line for each SA.
func writeWide(w io.Writer, v *statusView) error {
	b := bufio.NewWriter(w)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VERDICT\tDIR\tSPI\tSRC\tDST\tMODE\tREQID\tOFFLOAD\tAGE\tPACKETS\tBYTES\tRATE\tSEQUENCE\tENDS\tDROPPED\tREASON")
	for i := range v.Pairs {
		for _, sa := range v.Pairs[i].sas() {
			offload, age, ends := "-", "-", "-"
			if sa.Offload != nil {
				offload = sa.Offload.Dev + "/" + sa.Offload.Mode
			}
			if sa.Age != nil {
				age = lasting(*sa.Age)
			}
			if b := soonest(sa.Budgets, true); b != nil {
				ends = in(*b.Left)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%d\t%s\t%d\t%s\n", sa.Verdict, sa.Direction, sa.SPI, sa.Src, sa.Dst,
				v.Pairs[i].Mode, reqidText(sa.Reqid), offload, age, sa.Packets, amount(float64(sa.Bytes)), bitRate(sa.BPS), sa.Sequence, ends,
				sa.Replayed+sa.Late+sa.Forged, sa.Reason)
		}
	}
	return errors.Join(t.Flush(), b.Flush())
}
