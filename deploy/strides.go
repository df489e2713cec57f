package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"espalier/deploy/steps"
)

const (
	addWithin   = 30 * time.Second // many SAs take their time, and another program may hold the record of used keys
	probeFirst  = time.Second
	probeWithin = 10 * time.Second // for the first packets, which may have to wait until neighbours are found
	probeAgain  = 5 * time.Second
	dialWithin  = 15 * time.Second // to make a lost connection again
)

// strides are what all hosts do one after the other, up to where they are ready to confirm.
func (c *change) strides() []stride {
	all := []stride{{"begin", c.beginOn}}
	if c.Kind != steps.Down {
		all = append(all, stride{"inbound SAs", c.addInbound}, stride{"outbound SAs", c.addOutbound})
	}
	all = append(all, stride{"policies", c.policies(steps.Accepting)}, stride{"policies", c.policies(steps.Sending)})
	if c.Kind != steps.Down {
		all = append(all, stride{"probes", c.tried}, stride{"probes", c.probed}, stride{"policies", c.policies(steps.Required)}, stride{"guard", c.guarded})
	}
	last := stride{"a new connection", c.reached}
	if c.Kind != steps.Down {
		last = stride{"a new connection and verdict", c.reachedAndJudged}
	}
	return append(all, last)
}

// tell asks a host for a step of the change.
func tell[A any](ctx context.Context, p *part, operation string, question any, patience time.Duration) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, patience+dialWithin)
	defer cancel()
	return ask[A](ctx, p.far, operation, question, patience)
}

func (c *change) beginOn(ctx context.Context, p *part) (string, error) {
	p.stage = steps.Open // perhaps: from now on it may have to be undone
	answer, err := tell[steps.Progress](ctx, p, steps.Begin, p.begin, oneCall)
	if err != nil {
		return "", err
	}
	p.earliest, p.latest = p.asked.Add(answer.Left), time.Now().Add(answer.Left)
	if answer.Stage != steps.Open {
		return "", fmt.Errorf("%s: the change is %s already", p.name, answer.Stage)
	}
	return fmt.Sprintf("ready, and undoes all of this unless it is confirmed within %s", c.Timeout), nil
}

func (c *change) addInbound(ctx context.Context, p *part) (string, error) {
	return c.add(ctx, p, steps.Inbound, &p.inbound)
}

func (c *change) addOutbound(ctx context.Context, p *part) (string, error) {
	said, err := c.add(ctx, p, steps.Outbound, &p.outbound)
	if said != "" && c.Kind == steps.Rotate {
		said += "; traffic goes by them now"
	}
	return said, err
}

// add has SAs added, wipes them, and looks at what was read back.
func (c *change) add(ctx context.Context, p *part, operation string, b *batch) (string, error) {
	if len(b.sas) == 0 {
		return "", nil
	}
	answer, err := tell[steps.SAsAnswer](ctx, p, operation, steps.SAsQuestion{Change: c.id, SAs: b.payloads}, addWithin)
	b.wipe()
	if err != nil {
		return "", err
	}
	if len(answer.SAs) != len(b.sas) {
		return "", fmt.Errorf("%s: %d SAs were read back of %d", p.name, len(answer.SAs), len(b.sas))
	}
	var granted []string
	var unmet []error
	for i, read := range answer.SAs {
		sa := &b.sas[i]
		sa.Offload, sa.ESN, sa.Window = read.Offload, read.ESN, read.Window
		if !slices.Contains(granted, read.Offload) {
			granted = append(granted, read.Offload)
		}
		if b.require[i] && read.Offload != "crypto" && read.Offload != "packet" {
			unmet = append(unmet, &Unmet{fmt.Sprintf("%s: the NIC does not take SA %s of tunnel %s, and offload: require is in the file", p.name, sa.SPI, sa.Tunnel)})
		}
	}
	return fmt.Sprintf("%s, offload %s", count(len(b.sas), b.sas[0].Direction+"bound SA"), strings.Join(granted, " and ")), errors.Join(unmet...)
}

// policies has a part of the policies put in place.
func (c *change) policies(which steps.Part) func(context.Context, *part) (string, error) {
	said := map[steps.Part]string{
		steps.Accepting: "takes ESP, and still what comes in clear", steps.Sending: "sends by ESP only", steps.Required: "takes nothing in clear any more",
	}[which]
	switch c.Kind {
	case steps.Rotate:
		said = "" // nothing differs
	case steps.Down:
		said = map[steps.Part]string{steps.Accepting: "takes what comes in clear as well", steps.Sending: "sends in clear again"}[which]
	}
	return func(ctx context.Context, p *part) (string, error) {
		_, err := tell[steps.Progress](ctx, p, steps.Policies, steps.PoliciesQuestion{Change: c.id, Part: which}, oneCall)
		return said, err
	}
}

// tried has probes sent, and waits a little for those of the peers: then it is known as well which of them
// cannot be sent.
func (c *change) tried(ctx context.Context, p *part) (string, error) {
	answer, err := c.sendProbes(ctx, p, probeFirst, nil)
	if err != nil {
		return "", err
	}
	p.unsendable, p.missed = answer.Unsendable, len(answer.Missing) > 0
	if p.missed {
		return "", nil
	}
	return p.sawProbes(answer, probeFirst)
}

// probed has all hosts send probes again if to some none have come yet, and these wait for all that can be sent.
func (c *change) probed(ctx context.Context, p *part) (string, error) {
	switch {
	case p.missed:
		return c.probe(ctx, p, probeWithin)
	case slices.ContainsFunc(c.parts, func(p *part) bool { return p.missed }):
		_, err := c.sendProbes(ctx, p, probeFirst, nil)
		return "", err
	}
	return "", nil
}

func (c *change) probe(ctx context.Context, p *part, within time.Duration) (string, error) {
	var excused []steps.Seen
	for _, other := range c.parts {
		excused = append(excused, other.unsendable...)
	}
	answer, err := c.sendProbes(ctx, p, within, excused)
	if err != nil {
		return "", err
	}
	return p.sawProbes(answer, within)
}

func (c *change) sendProbes(ctx context.Context, p *part, within time.Duration, excused []steps.Seen) (steps.ProbeAnswer, error) {
	q := steps.ProbeQuestion{Change: c.id, Within: within, Excused: excused}
	return tell[steps.ProbeAnswer](ctx, p, steps.Probe, q, within+oneCall)
}

// sawProbes tells what has come to a host.
func (p *part) sawProbes(answer steps.ProbeAnswer, within time.Duration) (string, error) {
	if len(answer.Missing) > 0 {
		var missing []error
		for _, m := range answer.Missing {
			why := ""
			if m.Why != "" {
				why = ": " + m.Why
			}
			missing = append(missing, fmt.Errorf("%s: nothing has come from %s by tunnel %s within %s%s", p.name, m.Remote, m.Tunnel, within, why))
		}
		return "", errors.Join(missing...)
	}
	seen, unproven := 0, ""
	for _, s := range answer.Seen {
		if s.Packets > 0 {
			seen++
		}
		if s.Why != "" && s.Packets > 0 {
			unproven = "; tunnel " + s.Tunnel + ": " + s.Why
		} else if s.Why != "" {
			unproven = "; tunnel " + s.Tunnel + " is not tried: " + s.Why
		}
	}
	if seen == 0 {
		return strings.TrimPrefix(unproven, "; "), nil
	}
	return fmt.Sprintf("packets of its %s come by ESP", plural(seen, "peer")) + unproven, nil
}

func (c *change) guarded(ctx context.Context, p *part) (string, error) {
	answer, err := tell[steps.Progress](ctx, p, steps.Guard, c.question(), oneCall)
	if err != nil || c.Kind == steps.Rotate {
		return "", err
	}
	return but("guarded, also after a reboot", answer.Problem), nil
}

// reached tries whether the host still lets us in.
func (c *change) reached(ctx context.Context, p *part) (string, error) {
	if p.knock == nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	if err := p.knock(ctx); err != nil {
		return "", err
	}
	return "can be reached anew", nil
}

// reachedAndJudged does both at once: while SAs are watched there is time to connect.
func (c *change) reachedAndJudged(ctx context.Context, p *part) (string, error) {
	var reaching sync.WaitGroup
	var unreached error
	reaching.Go(func() {
		var said string
		if said, unreached = c.reached(ctx, p); said != "" {
			c.Say(p.name, said)
		}
	})
	said, err := c.judged(ctx, p)
	reaching.Wait()
	return said, errors.Join(unreached, err)
}

// count is a number of things, in words.
func count(n int, thing string) string { return fmt.Sprintf("%d %s", n, plural(n, thing)) }

func plural(n int, thing string) string {
	if n == 1 {
		return thing
	}
	return thing + "s"
}
