package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"espalier/dataplane"
	"espalier/internal/xfrmstat"
	"espalier/ipsec"
	"espalier/xfrm/client"
)

const explainLong = `Explain counters of /proc/net/xfrm_stat, and reasons for which a userspace device drops packets: what
happened, why that usually is, and what to look at.

Without a name: those that have counted anything since the system, or the device, was started.`

// explainView is the JSON of `espalier explain`.
type explainView struct {
	Schema   string        `json:"schema"`
	OK       bool          `json:"ok"`
	SAD      string        `json:"sad,omitempty"` // whose counts these are; "" if nobody was asked
	Explains []explanation `json:"explains"`
}

// explanation of one counter, or of a reason of a userspace device and the counter that it is among.
type explanation struct {
	Name    string   `json:"name"`
	Counter string   `json:"counter,omitempty"` // of /proc/net/xfrm_stat
	Since   string   `json:"since,omitempty"`   // kernel
	Packets *uint64  `json:"packets,omitempty"` // since the start
	Meaning string   `json:"meaning"`
	Causes  []string `json:"causes"`
	LookAt  []string `json:"look_at"`
}

func newExplainCommand() *cobra.Command {
	var sad, output string
	var all bool
	cmd := &cobra.Command{
		Use:   "explain [NAME…]",
		Short: "Explain counters of /proc/net/xfrm_stat and reasons for drops",
		Long:  explainLong,
		Example: `  espalier explain XfrmInTmplMismatch
  espalier explain                      # those that have counted anything
  espalier explain --all -o json`,
		ValidArgsFunction: func(_ *cobra.Command, given []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			for _, e := range explanations() {
				if !slices.Contains(given, e.Name) {
					names = append(names, cobra.CompletionWithDesc(e.Name, e.Meaning))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		Args: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if _, err := explain(name); err != nil {
					return usageError(err)
				}
			}
			if all && len(args) > 0 {
				return usageError(fmt.Errorf("explain: --all and names do not go together"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			as := formatText
			err := choose("-o", output, map[string]func(){"text": func() {}, "json": func() { as = formatJSON }, "yaml": func() { as = formatYAML }})
			if err != nil {
				return usageError(fmt.Errorf("explain: %w", err))
			}
			v := &explainView{Schema: schemaOf("explain"), OK: true}
			switch {
			case len(args) > 0:
				for _, name := range args {
					e, _ := explain(name) // Args has looked
					v.Explains = append(v.Explains, e)
				}
			case all:
				v.Explains = explanations()
			default:
				if err := v.moved(cmd.Context(), sad, cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			if as.isData() {
				return writeData(cmd.OutOrStdout(), as, v)
			}
			return v.write(cmd.OutOrStdout(), newScreen(cmd.OutOrStdout()))
		},
	}
	f := cmd.Flags()
	f.StringVar(&sad, "sad", "", "kernel, unix:PATH or auto: whose counters (default auto, or ESPALIER_SAD)")
	f.BoolVar(&all, "all", false, "every counter and reason there is")
	f.StringVarP(&output, "output", "o", "text", "text, json or yaml")
	cmd.RegisterFlagCompletionFunc("sad", fixedWords("kernel", "auto", "unix:"))
	cmd.RegisterFlagCompletionFunc("output", fixedWords("text", "json", "yaml"))
	return cmd
}

// explanations are all: the kernel's counters, then the device's reasons.
func explanations() (all []explanation) {
	for _, c := range xfrmstat.Counters {
		all = append(all, explanation{Name: c.Name, Counter: c.Name, Since: c.Since, Meaning: c.Meaning, Causes: c.Causes, LookAt: c.Look})
	}
	for _, d := range dataplane.DropReasons() {
		all = append(all, explainReason(d))
	}
	return all
}

// explainReason explains a reason by its own meaning and causes: those of the counter that it is among are of
// other reasons, too.
func explainReason(d ipsec.DropCount) explanation {
	e := explanation{Name: d.Reason, Counter: d.Counter, Meaning: d.Meaning, Causes: append([]string{}, dataplane.Causes(d.Reason)...), LookAt: []string{"espalier xfrm drops", "docs/device.md"}}
	if d.Counter != "" {
		e.LookAt = append(e.LookAt, "espalier explain "+d.Counter)
	}
	return e
}

// explain finds one, whatever its case.
func explain(name string) (explanation, error) {
	var near []string
	for _, e := range explanations() {
		if strings.EqualFold(e.Name, name) {
			return e, nil
		}
		if strings.Contains(strings.ToLower(e.Name), strings.ToLower(name)) && len(near) < 5 {
			near = append(near, e.Name)
		}
	}
	hint := "espalier explain --all lists them"
	if len(near) > 0 {
		hint = strings.Join(near, ", ") + "?"
	}
	return explanation{}, fmt.Errorf("explain: there is no counter or reason %q: %s", shorten(name), hint)
}

// moved explains what has counted anything.
func (v *explainView) moved(ctx context.Context, sad string, errors io.Writer) error {
	dir, err := client.SocketDir()
	if err != nil {
		return err
	}
	choice, err := chooseSAD(sad, os.Getenv("ESPALIER_SAD"), dir, nil)
	if err != nil {
		return statusSADError(err)
	}
	fmt.Fprintf(errors, "sad: %s\n", choice)
	engine, err := choice.open()
	if err != nil {
		return needsNetAdmin(err)
	}
	defer engine.Close()
	v.SAD, v.Explains = choice.name(), []explanation{}
	accounting, ok := engine.(ipsec.Accounting)
	if !ok {
		return fmt.Errorf("explain: %w", ipsec.ErrUnsupported)
	}
	counts, err := accounting.Drops(ctx)
	if err != nil {
		return err
	}
	for _, c := range counts {
		if c.Packets == 0 {
			continue
		}
		e, err := explain(c.Reason)
		if err != nil { // of a kernel or a device newer than this program
			e = explanation{Name: c.Reason, Counter: c.Counter, Meaning: c.Meaning, Causes: []string{}, LookAt: []string{}}
		}
		e.Packets = &c.Packets
		v.Explains = append(v.Explains, e)
	}
	return nil
}

func (v *explainView) write(w io.Writer, s screen) error {
	var b strings.Builder
	if len(v.Explains) == 0 {
		b.WriteString("nothing was dropped\n")
	}
	for i, e := range v.Explains {
		if i > 0 {
			b.WriteByte('\n')
		}
		head := e.Name
		if e.Counter != "" && e.Counter != e.Name {
			head += " (counted as " + e.Counter + ")"
		}
		b.WriteString(s.paint(bold, head))
		if e.Packets != nil {
			fmt.Fprintf(&b, ": %s", plural(int(*e.Packets), "packet"))
		}
		if e.Since != "" {
			b.WriteString(", since Linux " + e.Since)
		}
		b.WriteByte('\n')
		s.paragraph(&b, "  ", e.Meaning)
		s.list(&b, "likely", e.Causes)
		s.list(&b, "look at", e.LookAt)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s screen) paragraph(b *strings.Builder, lead, text string) {
	for _, line := range wrap(text, s.width-columns(lead)) {
		b.WriteString(lead + line + "\n")
	}
}

// list writes items below each other, behind a word.
func (s screen) list(b *strings.Builder, word string, items []string) {
	lead := fmt.Sprintf("  %-9s", word)
	for _, item := range items {
		for i, line := range wrap(item, s.width-columns(lead)-2) {
			mark := "· "
			if i > 0 {
				mark = "  "
			}
			b.WriteString(lead + mark + line + "\n")
			lead = strings.Repeat(" ", len(lead))
		}
	}
}
