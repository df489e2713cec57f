package cli

import (
	"fmt"
	"io"
	"strings"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/tunnel"
	"espalier/xfrm"
)

// actions are what becomes of a pair, in words.
var actions = map[tunnel.Action]string{
	tunnel.Keep: "unchanged", tunnel.Create: "to create", tunnel.Adjust: "to adjust", tunnel.Replace: "to replace", tunnel.Remove: "to remove",
}

// writePlan says what a plan changes: pair by pair why, and host by host what.
func writePlan(w io.Writer, p *tunnel.Plan) error {
	t := planText{screen: newScreen(w), plan: p}
	t.pairs()
	for i := range p.Hosts {
		t.host(i)
	}
	if order := p.Steps(); len(order) > 0 {
		t.line(t.paint(bold, "In this order") + ", on all hosts at the same time:")
		for i, step := range order {
			t.fold(fmt.Sprintf("  %d  ", i+1), step)
		}
		t.line("")
	}
	t.summary()
	_, err := io.WriteString(w, t.String())
	return err
}

// planText collects the lines.
type planText struct {
	screen
	strings.Builder
	plan *tunnel.Plan
}

func (t *planText) line(text string) { t.WriteString(strings.TrimRight(text, " ") + "\n") }

// fold writes text behind a head, and wraps it below where it began.
func (t *planText) fold(head, text string) {
	for i, l := range wrap(text, max(t.width-columns(head), narrow)) {
		if i > 0 {
			head = strings.Repeat(" ", columns(head))
		}
		t.line(head + l)
	}
}

var actionColours = map[tunnel.Action]string{tunnel.Create: green, tunnel.Remove: red, tunnel.Adjust: yellow, tunnel.Replace: yellow}

// pairs writes those that change; what is to be said of several alike is said once.
func (t *planText) pairs() {
	var alike []*tunnel.Pair
	said := ""
	end := func() {
		if len(alike) == 0 {
			return
		}
		for _, p := range alike {
			t.line(fmt.Sprintf("%s  %s ↔ %s  %s", t.paint(bold, p.Tunnel), p.Ends[0].Local, p.Ends[0].Remote, t.paint(actionColours[p.Action], actions[p.Action])))
		}
		t.WriteString(said + "\n")
	}
	for i := range t.plan.Pairs {
		p := &t.plan.Pairs[i]
		if p.Action == tunnel.Keep {
			continue
		}
		body := planText{screen: t.screen, plan: t.plan}
		body.pair(p)
		if body.String() != said {
			end()
			alike, said = nil, body.String()
		}
		alike = append(alike, p)
	}
	end()
}

// pair says what there is to say of one.
func (t *planText) pair(p *tunnel.Pair) {
	for _, why := range p.Why {
		t.fold("    ", why)
	}
	widths := [2]int{}
	for _, c := range p.Choices {
		widths[0], widths[1] = max(widths[0], columns(c.Setting)), max(widths[1], min(columns(c.Value), 24))
	}
	for _, c := range p.Choices {
		t.fold(fmt.Sprintf("    %-*s  %-*s  ", widths[0], c.Setting, widths[1], c.Value), c.Why)
	}
	if traffic := p.Traffic(); traffic != "" {
		t.fold("    traffic  ", traffic)
	}
	if rotated := rotatedWords(p); rotated != "" {
		t.fold("    rotated  ", rotated)
	}
	for _, note := range p.Notes {
		t.fold("    note     ", note)
	}
}

// rotatedWords say how often SAs are replaced, and how.
func rotatedWords(p *tunnel.Pair) string {
	switch {
	case p.Of == nil:
		return ""
	case p.Rotate.Every == 0:
		return "never"
	}
	return fmt.Sprintf("every %s, or at %.0f%% of the sequence numbers: the new SAs carry the traffic before the old ones go",
		config.Duration(p.Rotate.Every), 100*p.Rotate.Share)
}

// mostLines of a host's differences are shown to people.
const mostLines = 100

// host writes what changes on one, in the order in which it does.
func (t *planText) host(i int) {
	diff := t.plan.Diff(i)
	if len(diff) == 0 {
		return
	}
	t.line(t.paint(bold, t.plan.Hosts[i].Name) + engineNote(t.plan, i))
	lines := make([]string, len(diff))
	for k := range diff {
		lines[k] = command(t.plan, i, &diff[k])
	}
	for shown := 0; len(diff) > 0; shown++ {
		if shown == mostLines {
			t.line(fmt.Sprintf("  … and %d more: -o json has them all", len(diff)))
			break
		}
		d, same := diff[0], 1
		for same < len(diff) && diff[same].Sign == d.Sign && lines[same] == lines[0] {
			same++
		}
		text := lines[0]
		if same > 1 {
			text = fmt.Sprintf("%d × %s", same, text)
		}
		diff, lines = diff[same:], lines[same:]
		colour := map[tunnel.Sign]string{tunnel.Added: green, tunnel.Removed: red, tunnel.Changed: yellow}[d.Sign]
		for k, l := range wrap(text, max(t.width-8, narrow)) {
			head := "  " + t.paint(colour, string(d.Sign)) + " "
			if k > 0 {
				head = "        "
			}
			t.line(head + l)
		}
	}
	t.line("")
}

// engineNote names the engines of a host that are not the kernel.
func engineNote(p *tunnel.Plan, host int) string {
	note := ""
	for e := range p.EndsOf(host) {
		if e.Engine != "kernel" && !strings.Contains(note, e.Engine) {
			note += ", " + e.Engine
		}
	}
	return note
}

func (t *planText) summary() {
	var counts []string
	for _, a := range []tunnel.Action{tunnel.Create, tunnel.Replace, tunnel.Adjust, tunnel.Remove, tunnel.Keep} {
		if n := t.plan.Count(a); n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, actions[a]))
		}
	}
	if !t.plan.Changes() {
		t.line(fmt.Sprintf("Nothing to change: %s as the file says.", plural(len(t.plan.Pairs), "pair")))
		return
	}
	t.line("Pairs of hosts: " + strings.Join(counts, ", ") + ".")
}

// command is the line of ip xfrm for a difference, with the key hidden. What is yet to be made up
// stands in angle brackets.
func command(p *tunnel.Plan, host int, d *tunnel.Difference) string {
	opt := xfrm.FormatOptions{InterfaceName: deviceNames(p.Hosts[host].Facts)}
	if d.SA != nil {
		s, err := steps.LinuxState(d.SA)
		if err != nil {
			return fmt.Sprintf("SA %s: %v", d.SA.ID(), err)
		}
		line := xfrm.FormatState(s, opt)
		if d.SA.SPI == 0 {
			line = strings.Replace(line, " proto esp ", " proto esp spi <new> ", 1)
		}
		return line
	}
	policy, err := steps.LinuxPolicy(d.Policy)
	if err != nil {
		return fmt.Sprintf("policy %s: %v", d.Policy.ID(), err)
	}
	return xfrm.FormatPolicy(policy, opt)
}

// deviceNames are those of a host, by number.
func deviceNames(f *tunnel.Facts) func(int) string {
	return func(index int) string {
		for i := range f.Devices {
			if f.Devices[i].Index == index {
				return f.Devices[i].Name
			}
		}
		return ""
	}
}
