package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"espalier/deploy"
	"espalier/remote"
	"espalier/tunnel"
	"espalier/verdict"
)

// changeView is the JSON of `espalier apply`, rotate, down and pair.
type changeView struct {
	Schema string `json:"schema"`
	OK     bool   `json:"ok"`
	File   string `json:"file"`
	deploy.Report
	Undo    string   `json:"undo,omitempty"`    // the command that takes it back
	Without []string `json:"without,omitempty"` // hosts that took no part: what they have stays
}

// conclude shows what a change came to. c is nil if there was none.
func (r *tunnelRun) conclude(command string, c *change, err error) error {
	if c == nil || c.report == nil {
		if err != nil && r.as.isData() {
			writeData(r.stdout, r.as, failure{Schema: schemaOf(command), Error: err.Error(), Exit: exitCode(err)})
		}
		return err
	}
	err = errors.Join(err, c.lost)
	view := r.view(command, c, err)
	switch {
	case r.as.isData():
		return errors.Join(err, writeData(r.stdout, r.as, view))
	case c.quiet:
		return err
	}
	if err != nil && (c.lost == nil || view.Result != deploy.Confirmed) {
		return err
	}
	return errors.Join(err, view.writeText(r.stdout, r.kind))
}

// view is what a change came to, of which there is a report.
func (r *tunnelRun) view(command string, c *change, err error) changeView {
	view := changeView{Schema: schemaOf(command), OK: err == nil, File: c.path, Report: *c.report, Without: c.absent.Names()}
	if err == nil && r.kind != tunnel.Down {
		view.Undo = "espalier down " + c.path
	}
	if err != nil && view.Why == "" && r.as.isData() {
		view.Why = err.Error()
	}
	return view
}

// configured is the last line of a change that is in force.
const configured = "IPSec tunnel configured successfully"

func (v *changeView) writeText(w io.Writer, kind tunnel.Kind) error {
	var b bytes.Buffer
	changed, rekeyed := 0, 0
	for _, p := range v.Pairs {
		if p.Action != tunnel.Keep {
			changed++
		}
		if p.Action == tunnel.Replace || p.Action == tunnel.Create {
			rekeyed++
		}
	}
	switch {
	case kind == tunnel.Down && v.Result == deploy.Unchanged:
		fmt.Fprintf(&b, "nothing to change: no tunnel of %s is set up\n", v.File)
	case kind == tunnel.Down && len(v.Without) > 0:
		fmt.Fprintf(&b, "nothing is left of %s on the other hosts\n", v.File)
	case kind == tunnel.Down:
		fmt.Fprintf(&b, "nothing is left of %s: %s in clear\n", v.File, pairsGo(changed))
	case v.Result == deploy.Unchanged:
		fmt.Fprintf(&b, "nothing to change: %s as the file says\n", pairsAre(len(v.Pairs)))
	default:
		v.writeSAs(&b, newScreen(w))
	}
	for _, name := range v.Without {
		fmt.Fprintf(&b, "%s was left out: what it has stays", remote.Printable(name))
		switch kind {
		case tunnel.Down:
			fmt.Fprintf(&b, ", and it takes nothing in clear from them\nto end that: espalier down %s", v.File)
		case tunnel.Apply:
			b.WriteString(", and what the others have for it")
		}
		b.WriteByte('\n')
	}
	if v.Why != "" {
		fmt.Fprintf(&b, "but: %s\n", remote.Printable(v.Why))
	}
	switch kind {
	case tunnel.Apply:
		fmt.Fprintf(&b, "to take it back: %s\n%s\n", v.Undo, configured)
	case tunnel.Rotate:
		if rekeyed > 0 {
			fmt.Fprintf(&b, "%s new keys\n", pairsHave(rekeyed))
		}
		if n := changed - rekeyed; n > 0 {
			fmt.Fprintf(&b, "%s back what was lost; keys stay\n", pairsHave(n))
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func pairsAre(n int) string  { return number(n, "pair of hosts is", "pairs of hosts are") }
func pairsGo(n int) string   { return number(n, "pair of hosts talks", "pairs of hosts talk") }
func pairsHave(n int) string { return number(n, "pair of hosts has", "pairs of hosts have") }

func number(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// mostRows is how many SAs are shown one by one.
const mostRows = 16

// writeSAs writes who encrypts what.
func (v *changeView) writeSAs(b *bytes.Buffer, s screen) {
	if len(v.SAs) == 0 {
		return
	}
	rows := [][]string{{"TUNNEL", "HOST", "SA", "FROM → TO", "VERDICT", "OFFLOAD", "REASON"}}
	many := map[verdict.Verdict]int{}
	for _, sa := range v.SAs {
		many[sa.Verdict]++
		rows = append(rows, []string{
			sa.Tunnel, remote.Printable(sa.Host), sa.Direction + " " + sa.SPI, sa.Src.String() + " → " + sa.Dst.String(),
			remote.Printable(string(sa.Verdict)), remote.Printable(sa.Offload), remote.Printable(sa.Reason),
		})
	}
	b.WriteByte('\n')
	if len(rows) <= mostRows+1 {
		s.writeRows(b, rows)
		b.WriteByte('\n')
		return
	}
	var parts []string
	for judged, n := range many {
		parts = append(parts, fmt.Sprintf("%d %s", n, judged))
	}
	slices.Sort(parts)
	fmt.Fprintf(b, "%d SAs: %s (espalier status on the hosts shows each)\n\n", len(v.SAs), strings.Join(parts, ", "))
}
