package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"espalier/remote"
	"espalier/verdict"
)

// Unmet says that a NIC does not do what the file requires of it.
type Unmet struct{ What string }

func (u *Unmet) Error() string { return u.What }

// statusCommand is the command that judges SAs, which hosts serve.
const statusCommand = "status"

// judged asks a host who encrypts its new SAs' traffic, while probes are sent once more.
func (c *change) judged(ctx context.Context, p *part) (string, error) {
	var probing sync.WaitGroup
	var missed error
	probing.Go(func() { _, missed = c.probe(ctx, p, probeAgain) })
	var engines []string
	for _, pair := range p.begin.Pairs {
		if len(pair.Inbound)+len(pair.Outbound) > 0 && !slices.Contains(engines, pair.Engine) {
			engines = append(engines, pair.Engine)
		}
	}
	for _, engine := range engines {
		p.judge(ctx, engine)
	}
	probing.Wait()
	p.unused()
	if missed != nil {
		return "", missed
	}
	var verdicts []verdict.Verdict
	var unmet []error
	for _, b := range []*batch{&p.inbound, &p.outbound} {
		for i, sa := range b.sas {
			verdicts = append(verdicts, sa.Verdict)
			if b.require[i] && (sa.Verdict == verdict.Software || sa.Verdict == verdict.Mixed) {
				unmet = append(unmet, &Unmet{fmt.Sprintf("%s: SA %s of tunnel %s is %s (%s), and offload: require is in the file", p.name, sa.SPI, sa.Tunnel, sa.Verdict, sa.Reason)})
			}
		}
	}
	if len(verdicts) == 0 {
		return "", nil
	}
	return "verdict " + string(verdict.Together(verdicts...)), errors.Join(unmet...)
}

// statusView is what is of use here of the document that espalier status prints.
type statusView struct {
	Pairs []struct{ Out, In *statusSA }
	Error string
}

type statusSA struct {
	SPI, Dst, Reason string
	Verdict          verdict.Verdict
}

// judge puts verdicts beside the SAs of an engine. Where there is none, the reason says why.
func (p *part) judge(ctx context.Context, engine string) {
	view, err := p.status(ctx, engine)
	found := map[[2]string]*statusSA{}
	for _, pair := range view.Pairs {
		for _, sa := range []*statusSA{pair.Out, pair.In} {
			if sa != nil {
				found[[2]string{sa.SPI, sa.Dst}] = sa
			}
		}
	}
	for _, b := range []*batch{&p.inbound, &p.outbound} {
		for i := range b.sas {
			sa := &b.sas[i]
			if sa.engine != engine {
				continue
			}
			sa.Verdict, sa.Reason = verdict.Unknown, "espalier status does not tell of it"
			if err != nil {
				sa.Reason = err.Error()
			} else if s := found[[2]string{sa.SPI, sa.Dst.String()}]; s != nil {
				sa.Verdict, sa.Reason = s.Verdict, s.Reason
			}
		}
	}
}

// unused says of SAs that nothing has come by, or gone, while others of the tunnel carried the probes, that
// there is nothing wrong with them.
func (p *part) unused() {
	for _, b := range []*batch{&p.inbound, &p.outbound} {
		busy := map[string]bool{}
		for i := range b.sas {
			busy[b.sas[i].Tunnel] = busy[b.sas[i].Tunnel] || b.sas[i].Verdict != verdict.Idle
		}
		for i := range b.sas {
			if sa := &b.sas[i]; sa.Verdict == verdict.Idle && busy[sa.Tunnel] {
				sa.Reason = "not used yet: it is for other CPUs or queues than those of the probes"
			}
		}
	}
}

func (p *part) status(ctx context.Context, engine string) (view statusView, err error) {
	q := remote.CommandQuestion{Arguments: []string{"-o", "json", "--sad", engine}}
	ctx, cancel := context.WithTimeout(ctx, oneCall+dialWithin)
	defer cancel()
	answer, err := ask[remote.CommandAnswer](ctx, p.far, statusCommand, q, oneCall)
	if err != nil {
		return view, err
	}
	if err := json.Unmarshal(answer.Stdout, &view); err != nil {
		return view, fmt.Errorf("espalier status ends with %d: %s", answer.Code, strings.TrimSpace(answer.Stderr))
	}
	if view.Error != "" {
		return view, errors.New(view.Error)
	}
	return view, nil
}
