package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"espalier/probe"
)

// writeReport writes one screen: the verdicts, the layers as a tree, what to do, and what was not seen. Unless
// it is wide, answers of yes stand together by name, and answers of no that come from the same, with the beginning of
// their evidence.
func writeReport(w io.Writer, s screen, r probe.Report, wide bool) error {
	var b strings.Builder
	for _, v := range verdicts(r) {
		b.WriteString(v.text(s))
	}
	b.WriteString("\n" + strings.Join(slices.DeleteFunc([]string{r.Host, r.Distribution}, func(s string) bool { return s == "" }), ", ") + "\n")
	s.write(&b, reportTree(r, wide), "")
	writeToDo(&b, s, r, wide)
	if len(r.Unseen) > 0 {
		without := "not seen without root: "
		if r.AsRoot {
			without = "not seen, although root: "
		}
		b.WriteByte('\n')
		for _, l := range wrap(without+strings.Join(r.Unseen, ", "), s.width) {
			b.WriteString(l + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdictOf is that of a device, or of a host without any.
type verdictOf struct {
	name      string
	readiness probe.Readiness
	reason    string
	warnings  []string
}

func verdicts(r probe.Report) []verdictOf {
	if len(r.Devices) == 0 {
		return []verdictOf{{cmp.Or(r.Host, "this host"), r.Readiness, r.Reason, r.Warnings}}
	}
	var all []verdictOf
	for _, d := range r.Devices {
		all = append(all, verdictOf{d.Name, d.Readiness, d.Reason, d.Warnings})
	}
	return all
}

// text is "p4p1: crypto offload NOT READY: kernel built without MLX5_EN_IPSEC", or "p4p1: crypto offload READY, but
// p4p1 has no carrier: nothing is heard from the other end", in lines.
func (v verdictOf) text(s screen) string {
	colour := map[probe.Readiness]string{probe.Ready: green, probe.NotReady: red, probe.Unclear: yellow}[v.readiness]
	sentence := v.name + ": crypto offload " + string(v.readiness)
	switch {
	case v.reason != "":
		sentence += ": " + v.reason
	case len(v.warnings) > 0:
		sentence += ", but " + someWarnings(v.warnings)
	}
	wrapped := strings.Join(wrap(sentence, s.width-2), "\n  ") + "\n"
	return strings.Replace(wrapped, string(v.readiness), s.paint(bold+";"+colour, string(v.readiness)), 1)
}

// someWarnings are the first of them, and how many there are besides.
func someWarnings(all []string) string {
	if more := len(all) - 1; more > 0 {
		return all[0] + "; and " + plural(more, "warning") + " more"
	}
	return strings.Join(all, "")
}

// detail is how much of a layer is shown.
type detail uint8

const (
	onlyProblems detail = iota // what is not yes and matters
	alsoNames                  // besides, the names of all else
	allOfIt                    // every answer with its evidence
)

// reportTree puts the layers in the order they build on each other: those of the host that others
// stand on, those of the devices, and what is left. With one device its layers stand among the
// host's, with several each has a branch.
func reportTree(r probe.Report, wide bool) []tree {
	of := alsoNames
	if wide {
		of = allOfIt
	}
	first := min(1, len(r.Layers))
	layers := slices.Clone(r.Layers[:first])
	var devices []tree
	switch len(r.Devices) {
	case 0:
	case 1:
		for _, l := range r.Devices[0].Layers {
			if len(layers) > 0 && l.Name == layers[0].Name {
				layers[0] = merged(layers[0], l)
				continue
			}
			layers = append(layers, l)
		}
	default:
		each := onlyProblems
		if wide {
			each = allOfIt
		}
		for _, d := range r.Devices {
			devices = append(devices, tree{label: d.Name, children: layerTrees(d.Layers, each)})
		}
	}
	return slices.Concat(layerTrees(layers, of), devices, layerTrees(r.Layers[first:], of))
}

func merged(a, b probe.Layer) probe.Layer {
	a.Checks = slices.Concat(a.Checks, b.Checks)
	if a.Summary == "" {
		a.Summary = b.Summary
	}
	return a
}

func layerTrees(layers []probe.Layer, show detail) []tree {
	var trees []tree
	for _, l := range layers {
		t := tree{label: l.Name, text: l.Summary, mark: "✓", colour: green}
		rank := 0
		for _, c := range l.Checks {
			if mark := markOf(c); mark.rank > rank {
				rank, t.mark, t.colour = mark.rank, mark.text, mark.colour
			}
			if show == allOfIt {
				t.children = append(t.children, checkTree(c))
			}
		}
		if show != allOfIt {
			t.children = fewTrees(l.Checks, show == alsoNames || l.Summary == "")
		}
		if l.Summary == "" && len(t.children) == 1 { // it says all there is of the layer
			c := t.children[0]
			t.text, t.items, t.notes, t.brief, t.children = c.text, c.items, c.notes, c.brief, nil
		}
		trees = append(trees, t)
	}
	return trees
}

// fewTrees are the checks of a layer on few lines: what is not yes and matters, the worst first; then the names of what only informs and
// of what is yes, if they are wanted.
func fewTrees(checks []probe.Check, named bool) (trees []tree) {
	var yes, informs []string
	var others [][]probe.Check
	for _, c := range checks {
		switch {
		case c.Weight == probe.Informs && c.Answer == probe.No:
			informs = append(informs, c.Title)
		case c.Weight == probe.Informs:
		case c.Answer == probe.Yes:
			yes = append(yes, c.Title)
		default:
			others = beside(others, c)
		}
	}
	rank := func(same []probe.Check) (worst int) {
		for _, c := range same {
			worst = max(worst, markOf(c).rank)
		}
		return worst
	}
	slices.SortStableFunc(others, func(a, b []probe.Check) int { return rank(b) - rank(a) })
	for _, same := range others {
		trees = append(trees, sameTree(same))
	}
	if named && len(informs) > 0 {
		trees = append(trees, tree{mark: "-", colour: dim, text: "no:", items: informs})
	}
	if named && len(yes) > 0 {
		trees = append(trees, tree{mark: "✓", colour: green, items: yes})
	}
	return trees
}

// beside puts a check to those whose answer comes from the same, or to none.
func beside(groups [][]probe.Check, c probe.Check) [][]probe.Check {
	for i, g := range groups {
		if g[0].Answer == c.Answer && cmp.Or(g[0].Cause, g[0].Why) == cmp.Or(c.Cause, c.Why) {
			groups[i] = append(g, c)
			return groups
		}
	}
	return append(groups, []probe.Check{c})
}

// mark of an answer. That of a layer is the one of its answers with the highest rank; what only
// informs has none.
type mark struct {
	text, colour string
	rank         int
}

func markOf(c probe.Check) mark {
	switch {
	case c.Answer == probe.Yes:
		return mark{"✓", green, 0}
	case c.Answer == probe.No && c.Weight == probe.Required:
		return mark{"✗", red, 4}
	case c.Answer == probe.No && c.Weight == probe.Warns:
		return mark{"!", yellow, 2}
	case c.Answer == probe.No:
		return mark{"-", dim, 0}
	case c.Weight == probe.Required:
		return mark{"?", yellow, 3}
	case c.Weight == probe.Warns:
		return mark{"?", yellow, 1}
	}
	return mark{"?", dim, 0}
}

// checkTree is one answer with all its evidence.
func checkTree(c probe.Check) tree {
	m := markOf(c)
	t := tree{mark: m.text, colour: m.colour, label: c.Title, text: c.Why}
	for _, e := range c.Evidence {
		t.notes = append(t.notes, told(e.Source, e.Value))
	}
	return t
}

// sameTree are answers that come from the same, in one line, with the beginning of their evidence.
func sameTree(checks []probe.Check) tree {
	m, first := markOf(checks[0]), checks[0]
	var titles []string
	var evidence []probe.Evidence
	for _, c := range checks {
		if other := markOf(c); other.rank > m.rank {
			m = other
		}
		titles = append(titles, c.Title)
		evidence = append(evidence, c.Evidence...)
	}
	t := tree{mark: m.text, colour: m.colour, label: first.Title, text: first.Why, notes: proof(evidence), brief: true}
	if len(checks) > 1 {
		t.label, t.text = "", strings.Join(titles, ", ")+": "+cmp.Or(first.Cause, first.Why)
	}
	return t
}

// proof is evidence in at most two notes: what one source says stands together, and sources that say the same do.
func proof(evidence []probe.Evidence) (lines []string) {
	type said struct{ sources, values []string }
	var all []said
	for _, e := range evidence {
		if e.Value == "" { // why stands beside the answer
			continue
		}
		at := slices.IndexFunc(all, func(s said) bool { return s.sources[0] == e.Source })
		switch {
		case at < 0:
			all = append(all, said{[]string{e.Source}, []string{e.Value}})
		case !slices.Contains(all[at].values, e.Value):
			all[at].values = append(all[at].values, e.Value)
		}
	}
	for i := 0; i < len(all); i++ {
		for j := len(all) - 1; j > i; j-- {
			if slices.Equal(all[i].values, all[j].values) {
				all[i].sources = slices.Insert(all[i].sources, 1, all[j].sources...)
				all = slices.Delete(all, j, j+1)
			}
		}
	}
	for i, s := range all {
		if i == mostProofs-1 && len(all) > mostProofs {
			return append(lines, fmt.Sprintf("and %d more (-o wide)", len(all)-i))
		}
		lines = append(lines, told(some(s.sources, 3), some(s.values, 1)))
	}
	return lines
}

// mostProofs are the lines of evidence that an answer has room for on one screen.
const mostProofs = 2

// some of several words, and how many there are besides.
func some(words []string, most int) string {
	if len(words) <= most {
		return strings.Join(words, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(words[:most], ", "), len(words)-most)
}

func told(source, value string) string {
	if value == "" {
		return source
	}
	return source + ": " + value
}

// writeToDo lists what helps, each once: first what stands in the way of offload, then what is at stake besides
// and, if it is wide, what is only worth knowing.
func writeToDo(b *strings.Builder, s screen, r probe.Report, wide bool) {
	var fixes []string
	for _, w := range []probe.Weight{probe.Required, probe.Warns, probe.Informs} {
		if w == probe.Informs && !wide {
			break
		}
		for _, l := range allLayers(r) {
			for _, c := range l.Checks {
				if c.Answer == probe.No && c.Weight == w && c.Fix != "" && !slices.Contains(fixes, c.Fix) {
					fixes = append(fixes, c.Fix)
				}
			}
		}
	}
	if len(fixes) == 0 {
		return
	}
	b.WriteString("\n" + s.paint(bold, "What to do") + "\n")
	for i, fix := range fixes {
		number := fmt.Sprintf("%2d. ", i+1)
		for paragraph := range strings.Lines(fix) {
			for _, l := range wrap(paragraph, s.width-len(number)) {
				b.WriteString(number + l + "\n")
				number = "    "
			}
		}
	}
}

func allLayers(r probe.Report) []probe.Layer {
	all := slices.Clone(r.Layers)
	for _, d := range r.Devices {
		all = append(all, d.Layers...)
	}
	return all
}
