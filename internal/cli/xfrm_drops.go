package cli

import (
	"context"
	"fmt"
	"text/tabwriter"

	"espalier/ipsec"
)

// dropsWord is the one command that `ip xfrm` does not have. (`ip xfrm stat` is `state`.)
const dropsWord = "drops"

// dropsView is the JSON of `espalier xfrm drops`.
type dropsView struct {
	Schema string     `json:"schema"`
	OK     bool       `json:"ok"`
	SAD    string     `json:"sad"`
	Drops  []dropView `json:"drops"`
}

type dropView struct {
	Reason  string `json:"reason"`
	Counter string `json:"counter,omitempty"` // of /proc/net/xfrm_stat
	Meaning string `json:"meaning,omitempty"`
	Packets uint64 `json:"packets"`
}

// showDrops prints what the engine dropped: in JSON every reason, for a person those that
// occurred.
func (r *xfrmRun) showDrops(ctx context.Context) error {
	if err := r.connect(nil); err != nil {
		return r.fail(job{}, err)
	}
	defer r.engine.Close()
	accounting, ok := r.engine.(ipsec.Accounting)
	if !ok {
		return r.fail(job{}, engineFailure(fmt.Errorf("drops: %w", ipsec.ErrUnsupported)))
	}
	counts, err := accounting.Drops(ctx)
	if err != nil {
		return r.fail(job{}, engineFailure(err))
	}
	if r.format.isData() {
		view := dropsView{Schema: schemaOf("xfrm-drops"), OK: true, SAD: r.sad.name(), Drops: []dropView{}}
		for _, c := range counts {
			view.Drops = append(view.Drops, dropView(c))
		}
		return writeData(r.stdout, r.format, view)
	}
	t := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', 0)
	none := true
	for _, c := range counts {
		if c.Packets > 0 {
			none = false
			fmt.Fprintf(t, "%d\t%s\t%s\t%s\n", c.Packets, c.Reason, c.Counter, c.Meaning)
		}
	}
	if none {
		fmt.Fprintln(t, "nothing was dropped")
	}
	return t.Flush()
}
