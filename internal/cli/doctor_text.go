package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"espalier/probe"
)

// writeReport writes one screen: the verdicts, the layers as a tree, what to do, and what was not
// seen. Unless it is wide, answers of yes stand together, those that only inform not at all.
func writeReport(w io.Writer, r probe.Report, wide bool) error {
	s := newScreen(w)
	var b strings.Builder
	for _, v := range verdicts(r) {
		b.WriteString(v.text(s))
	}
	b.WriteString("\n" + strings.Join(slices.DeleteFunc([]string{r.Host, r.Distribution}, func(s string) bool { return s == "" }), ", ") + "\n")
	s.write(&b, reportTree(r, wide), "")
	writeToDo(&b, s, r)
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
	warnings  int // answers of no to what is not required
}

func verdicts(r probe.Report) []verdictOf {
	if len(r.Devices) == 0 {
		return []verdictOf{{cmp.Or(r.Host, "this host"), r.Readiness, r.Reason, warnings(r.Layers)}}
	}
	var all []verdictOf
	for _, d := range r.Devices {
		all = append(all, verdictOf{d.Name, d.Readiness, d.Reason, warnings(r.Layers) + warnings(d.Layers)})
	}
	return all
}

func warnings(layers []probe.Layer) (n int) {
	for _, l := range layers {
		for _, c := range l.Checks {
			if c.Weight == probe.Warns && c.Answer == probe.No {
				n++
			}
		}
	}
	return n
}

// text is "p4p1: crypto offload NOT READY: kernel built without MLX5_EN_IPSEC", in lines.
func (v verdictOf) text(s screen) string {
	colour := map[probe.Readiness]string{probe.Ready: green, probe.NotReady: red, probe.Unclear: yellow}[v.readiness]
	sentence := v.name + ": crypto offload " + string(v.readiness)
	switch {
	case v.reason != "":
		sentence += ": " + v.reason
	case v.warnings == 1:
		sentence += ", with one warning"
	case v.warnings > 1:
		sentence += fmt.Sprintf(", with %d warnings", v.warnings)
	}
	wrapped := strings.Join(wrap(sentence, s.width-2), "\n  ") + "\n"
	return strings.Replace(wrapped, string(v.readiness), s.paint(bold+";"+colour, string(v.readiness)), 1)
}

// reportTree puts the layers in the order they build on each other: those of the host that others
// stand on, those of the devices, and what is left. With one device its layers stand among the
// host's, with several each has a branch.
func reportTree(r probe.Report, wide bool) []tree {
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
		for _, d := range r.Devices {
			devices = append(devices, tree{label: d.Name, children: layerTrees(d.Layers, wide)})
		}
	}
	return slices.Concat(layerTrees(layers, wide), devices, layerTrees(r.Layers[first:], wide))
}

func merged(a, b probe.Layer) probe.Layer {
	a.Checks = slices.Concat(a.Checks, b.Checks)
	if a.Summary == "" {
		a.Summary = b.Summary
	}
	return a
}

func layerTrees(layers []probe.Layer, wide bool) []tree {
	var trees []tree
	for _, l := range layers {
		t := tree{label: l.Name, text: l.Summary, mark: "✓", colour: green}
		rank := 0
		var yes []string
		for _, c := range l.Checks {
			if mark := markOf(c); mark.rank > rank {
				rank, t.mark, t.colour = mark.rank, mark.text, mark.colour
			}
			switch {
			case wide || c.Answer != probe.Yes:
				t.children = append(t.children, checkTree(c, wide))
			case c.Weight != probe.Informs:
				yes = append(yes, c.Title)
			}
		}
		if len(yes) > 0 {
			t.children = append(t.children, tree{mark: "✓", colour: green, text: strings.Join(yes, ", ")})
		}
		trees = append(trees, t)
	}
	return trees
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

// checkTree is one answer, with its evidence unless it is a plain yes or no that only informs.
func checkTree(c probe.Check, wide bool) tree {
	m := markOf(c)
	t := tree{mark: m.text, colour: m.colour, label: c.Title, text: c.Why}
	for _, e := range c.Evidence {
		if !wide && (c.Weight == probe.Informs || e.Value == "") {
			continue
		}
		note := e.Source
		if e.Value != "" {
			note += ": " + e.Value
		}
		t.notes = append(t.notes, note)
	}
	return t
}

// writeToDo lists what helps, each once: first what stands in the way of offload, then the rest.
func writeToDo(b *strings.Builder, s screen, r probe.Report) {
	var fixes []string
	for _, w := range []probe.Weight{probe.Required, probe.Warns, probe.Informs} {
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
