package cli

import (
	"bufio"
	"errors"
	"io"
	"iter"

	"espalier/xfrm"
)

func (r *xfrmRun) printOptions(j job) xfrm.PrintOptions {
	return xfrm.PrintOptions{
		Stats:         r.stats,
		ShowKeys:      r.showKeys && !j.NoKeys,
		OneLine:       r.format == formatOneLine,
		InterfaceName: r.names.name,
	}
}

// done reports a command without output.
func (r *xfrmRun) done(j job, err error) error {
	if err != nil || !r.format.isData() {
		return err
	}
	return writeData(r.stdout, r.format, r.resultOf(j))
}

func (r *xfrmRun) showInstalled(j job, granted bool, back *xfrm.State, text string) error {
	if !r.format.isData() {
		return nil
	}
	v := r.resultOf(j)
	v.Offload = &offloadResult{Granted: granted, Verdict: text, Offload: r.offloadView(back.Offload)}
	return writeData(r.stdout, r.format, v)
}

func (r *xfrmRun) showCount(j job, text string, counts map[string]uint32) error {
	if r.format.isData() {
		v := r.resultOf(j)
		v.Count = counts
		return writeData(r.stdout, r.format, v)
	}
	_, err := io.WriteString(r.stdout, text)
	return err
}

func (r *xfrmRun) showDefaults(j job, d *xfrm.Defaults) error {
	if r.format.isData() {
		v := defaultsView{result: r.resultOf(j), Defaults: defaultActions{In: d.In.String(), Fwd: d.Fwd.String(), Out: d.Out.String()}}
		return writeData(r.stdout, r.format, v)
	}
	return xfrm.FprintDefaults(r.stdout, d)
}

func (r *xfrmRun) showStates(j job, states []*xfrm.State) error {
	if r.format.isData() {
		v := stateList{result: r.resultOf(j), States: []stateView{}}
		for _, s := range states {
			v.States = append(v.States, r.stateView(s))
		}
		return writeData(r.stdout, r.format, v)
	}
	w := bufio.NewWriter(r.stdout)
	for _, s := range states {
		if err := xfrm.FprintState(w, s, r.printOptions(j)); err != nil {
			return err
		}
	}
	return w.Flush()
}

func (r *xfrmRun) showPolicies(j job, policies []*xfrm.Policy) error {
	if r.format.isData() {
		v := policyList{result: r.resultOf(j), Policies: []policyView{}}
		for _, p := range policies {
			v.Policies = append(v.Policies, r.policyView(p))
		}
		return writeData(r.stdout, r.format, v)
	}
	return r.printPolicies(j, func(yield func(*xfrm.Policy, error) bool) {
		for _, p := range policies {
			if !yield(p, nil) {
				return
			}
		}
	})
}

// printPolicies prints policies as they come: there may be more of them than memory.
func (r *xfrmRun) printPolicies(j job, policies iter.Seq2[*xfrm.Policy, error]) error {
	w := bufio.NewWriterSize(r.stdout, 64<<10)
	opt := r.printOptions(j)
	for p, err := range policies {
		if err == nil {
			err = xfrm.FprintPolicy(w, p, opt)
		}
		if err != nil {
			return errors.Join(err, w.Flush())
		}
	}
	return w.Flush()
}
