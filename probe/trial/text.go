package trial

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteText writes the matrix, with equal rows folded, in at most about 90 columns. What the kernel
// has said stands below it, each once.
func (r *Result) WriteText(w io.Writer) error {
	var notes notes
	fmt.Fprintf(w, "trial on %s: %s\n", r.Device, r.summary())
	table := func(title string, include func(Case) bool, dims ...dimension) error {
		fmt.Fprintf(w, "\n  %s\n", title)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		var head []string
		for _, d := range dims {
			head = append(head, d.name)
		}
		fmt.Fprintf(t, "    %s\tanswer\n", strings.Join(head, "\t"))
		cases := r.only(include)
		for _, row := range fold(cases, dims) {
			fmt.Fprintf(t, "    %s\t%s\n", strings.Join(row.cells(cases, dims), "\t"), notes.answer(&row.Tried))
		}
		return t.Flush()
	}
	err := table("AES-GCM with an ICV of 128 bits; receiving with a window of 64", Case.usual, offloads, keys, modes, esn, families, directions)
	if err != nil {
		return err
	}
	if err := table("windows of SAs that receive (AES-256, transport, IPv4)", Case.asksWindow, offloads, esn, windows); err != nil {
		return err
	}
	return notes.write(w)
}

// summary counts the outcomes: "118 SAs: 44 offloaded, 74 refused; none is left".
func (r *Result) summary() string {
	var counts []string
	for _, o := range []Outcome{Offloaded, Software, Otherwise, Refused, Untried} {
		if n := len(r.only(nil, o)); n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, o))
		}
	}
	return fmt.Sprintf("%d kinds of SA: %s", len(r.Cases), strings.Join(counts, ", "))
}

// only gives the cases that are included, all with nil, and have one of the outcomes, any with none.
func (r *Result) only(include func(Case) bool, outcomes ...Outcome) (some []Tried) {
	for _, t := range r.Cases {
		if (include == nil || include(t.Case)) && (outcomes == nil || slices.Contains(outcomes, t.Outcome)) {
			some = append(some, t)
		}
	}
	return some
}

// notes are what was said of cases, numbered from 1.
type notes []string

// answer of a case in a table.
func (n *notes) answer(t *Tried) string {
	words := t.words()
	if words == "" {
		return string(t.Outcome)
	}
	i := slices.Index(*n, words)
	if i < 0 {
		i = len(*n)
		*n = append(*n, words)
	}
	return fmt.Sprintf("%s [%d]", t.Outcome, i+1)
}

func (n notes) write(w io.Writer) error {
	if len(n) == 0 {
		return nil
	}
	_, err := fmt.Fprintln(w)
	for i, words := range n {
		_, err = fmt.Fprintf(w, "  [%d] %s\n", i+1, words)
	}
	return err
}
