package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// planned is a change of all hosts of a world: a full mesh.
type planned struct {
	id      string
	begins  []steps.BeginQuestion
	in, out [][][]byte // by host
}

const (
	timeout = 20 * time.Second
	grace   = 2 * time.Second
)

// plan makes a change. Each has SAs of a generation of its own, and takes the place of the former one.
func (w *world) plan(kind steps.Kind, generation, former int) *planned {
	p := &planned{id: fmt.Sprint("change ", generation), in: make([][][]byte, len(w.hosts)), out: make([][][]byte, len(w.hosts))}
	for range w.hosts {
		p.begins = append(p.begins, steps.BeginQuestion{Change: p.id, Kind: kind, Coordinator: "here", Origin: "here:/tunnels.yaml", Timeout: timeout, Grace: grace})
	}
	for a := range w.hosts {
		for b := range w.hosts {
			if a == b {
				continue
			}
			// a's side of the pair with b.
			reqid := uint32(100 + 10*min(a, b) + max(a, b))
			end := steps.PairEnd{Tunnel: "db", Engine: "kernel", Device: "p4p1", Local: w.hosts[a].addr, Remote: w.hosts[b].addr}
			policies := pairPolicies(w.t.Fatal, end.Local, end.Remote, reqid)
			switch {
			case former == 0:
				end.Action = tunnel.Create
			case kind == steps.Down:
				end.Action = tunnel.Remove
			default:
				end.Action = tunnel.Replace
			}
			if kind == steps.Down {
				end.Gone = policies
			} else {
				end.Policies = policies
				end.Outbound, end.Inbound = []tunnel.SAID{said(w, a, b, generation)}, []tunnel.SAID{said(w, b, a, generation)}
				key := ipsec.RandomKey(20)
				p.out[a] = append(p.out[a], state(w, a, b, generation, reqid, key))
				p.in[b] = append(p.in[b], state(w, a, b, generation, reqid, key))
			}
			if former > 0 {
				end.Old = []tunnel.SAID{said(w, a, b, former), said(w, b, a, former)}
			}
			p.begins[a].Pairs = append(p.begins[a].Pairs, end)
		}
	}
	return p
}

func said(w *world, from, to, generation int) tunnel.SAID {
	return tunnel.SAID{SAID: ipsec.SAID{Dst: w.hosts[to].addr, SPI: ipsec.SPI(generation<<12 + from<<4 + to)}, Src: w.hosts[from].addr}
}

func state(w *world, from, to, generation int, reqid uint32, key ipsec.Key) []byte {
	id := said(w, from, to, generation)
	b, err := xfrm.EncodeState(&xfrm.State{Src: id.Src, Dst: id.Dst, SPI: id.SPI, Proto: 50, Reqid: reqid, ReplayWindow: 32, Limits: xfrm.NoLimits,
		Sel: xfrm.Selector{Family: 2}, AEAD: &xfrm.AEAD{Name: xfrm.AEADName, ICVBits: 128, Key: key}})
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// pairPolicies are out, in and fwd for all traffic between two hosts, and a bypass.
func pairPolicies(fatal func(...any), local, remote netip.Addr, reqid uint32) (payloads [][]byte) {
	add := func(dir xfrm.PolicyDir, src, dst netip.Addr, priority uint32, protocol uint8, tmpls ...xfrm.Tmpl) {
		p := &xfrm.Policy{Dir: dir, Priority: priority, Limits: xfrm.NoLimits, Tmpls: tmpls}
		p.Sel.Family = 2
		p.Sel.Src, p.Sel.Dst, p.Sel.Protocol = netip.PrefixFrom(src, 32), netip.PrefixFrom(dst, 32), protocol
		b, err := xfrm.EncodePolicy(p)
		if err != nil {
			fatal(err)
		}
		payloads = append(payloads, b)
	}
	tmpl := xfrm.Tmpl{Proto: 50, Family: 2, Reqid: reqid, AAlgos: ^uint32(0), EAlgos: ^uint32(0), CAlgos: ^uint32(0)}
	add(xfrm.PolicyOut, local, remote, 1010, 0, tmpl)
	add(xfrm.PolicyIn, remote, local, 1010, 0, tmpl)
	add(xfrm.PolicyFwd, remote, local, 1010, 0, tmpl)
	add(xfrm.PolicyOut, local, remote, 1001, 2)
	add(xfrm.PolicyIn, remote, local, 1001, 2)
	return payloads
}

// errLost is what a coordinator sees of a request or an answer that was lost.
var errLost = errors.New("the connection was lost")

// died ends a coordinator for good.
type died struct{}

// wire decides what becomes of message n: it calls deliver, or does not.
type wire func(n, host int, operation string, deliver func() error) error

func direct(_, _ int, _ string, deliver func() error) error { return deliver() }

// coordinator carries a change out as package deploy does.
type coordinator struct {
	*world
	*planned
	wire wire
	n    int // messages so far
}

const (
	patience = 8 * time.Second // with a host that cannot be reached, before the first confirmation
	probeFor = 3 * time.Second
)

// carryOut returns what the user is told: "done", "rolled back" or "unknown"; "died" if there is nobody to tell.
func (w *world) carryOut(p *planned, via wire) (outcome string) {
	c := &coordinator{world: w, planned: p, wire: via}
	defer func() {
		if e := recover(); e != nil {
			if _, ok := e.(died); !ok {
				panic(e)
			}
			outcome = "died"
		}
	}()
	return c.run()
}

func (c *coordinator) run() string {
	kind := c.begins[0].Kind
	type stride struct {
		name string
		do   func(ctx context.Context, i int, h *Host) error
	}
	sas := func(list [][][]byte, add func(*Host) func(context.Context, steps.SAsQuestion) (steps.SAsAnswer, error)) func(context.Context, int, *Host) error {
		return func(ctx context.Context, i int, h *Host) error {
			q := steps.SAsQuestion{Change: c.id}
			for _, payload := range list[i] {
				q.SAs = append(q.SAs, bytes.Clone(payload))
			}
			_, err := add(h)(ctx, q)
			for _, payload := range q.SAs {
				if !bytes.Equal(payload, make([]byte, len(payload))) {
					c.t.Error("the key was not wiped")
				}
			}
			return err
		}
	}
	part := func(which steps.Part) func(context.Context, int, *Host) error {
		return func(ctx context.Context, _ int, h *Host) error {
			_, err := h.Policies(ctx, steps.PoliciesQuestion{Change: c.id, Part: which})
			return err
		}
	}
	probe := func(ctx context.Context, _ int, h *Host) error {
		a, err := h.Probe(ctx, steps.ProbeQuestion{Change: c.id, Within: probeFor})
		if err == nil && len(a.Missing) > 0 {
			err = fmt.Errorf("missing %v", a.Missing)
		}
		return err
	}
	strides := []stride{
		{steps.Begin, func(ctx context.Context, i int, h *Host) error { _, err := h.Begin(ctx, c.begins[i]); return err }},
		{steps.Inbound, sas(c.in, func(h *Host) func(context.Context, steps.SAsQuestion) (steps.SAsAnswer, error) { return h.Inbound })},
		{steps.Outbound, sas(c.out, func(h *Host) func(context.Context, steps.SAsQuestion) (steps.SAsAnswer, error) { return h.Outbound })},
		{"accepting", part(steps.Accepting)},
		{"sending", part(steps.Sending)},
		{steps.Probe, probe},
		{"required", part(steps.Required)},
		{steps.Guard, func(ctx context.Context, _ int, h *Host) error {
			_, err := h.Guard(ctx, steps.Question{Change: c.id})
			return err
		}},
		{"probe again", probe},
	}
	if kind == steps.Down {
		strides = []stride{strides[0], strides[3], strides[4]}
	}
	for _, s := range strides {
		var errs []error
		for i := range c.hosts {
			errs = append(errs, c.ask(i, s.name, c.now+patience, func(h *Host) error { return s.do(context.Background(), i, h) }))
		}
		if err := errors.Join(errs...); err != nil {
			c.undo()
			return "rolled back"
		}
	}
	return c.confirm()
}

func (c *coordinator) confirm() string {
	q := steps.Question{Change: c.id}
	until := c.now + 2*timeout
	outcome := "done"
	for i := range c.hosts {
		var p steps.Progress
		err := c.ask(i, steps.Confirm, until, func(h *Host) (err error) { p, err = h.Confirm(context.Background(), q); return err })
		switch {
		case errors.Is(err, errLost):
			outcome = "unknown"
		case err != nil || p.Stage == steps.Undone:
			c.undo()
			return "rolled back"
		}
	}
	if outcome == "unknown" {
		return outcome
	}
	for i := range c.hosts {
		if err := c.ask(i, steps.Finish, c.now+2*timeout, func(h *Host) error { _, err := h.Finish(context.Background(), q); return err }); err != nil {
			outcome = "unknown"
		}
	}
	if outcome != "done" {
		return outcome
	}
	for i := range c.hosts {
		err := c.ask(i, steps.Forget, c.now+patience, func(h *Host) error { _, err := h.Forget(context.Background(), q); return err })
		c.hosts[i].told = err == nil
	}
	return outcome
}

func (c *coordinator) undo() {
	for i := range c.hosts {
		c.ask(i, steps.Undo, c.now+patience, func(h *Host) error {
			_, err := h.Undo(context.Background(), steps.Question{Change: c.id})
			return err
		})
	}
}

// ask asks a host until an answer comes, or it is too late.
func (c *coordinator) ask(i int, operation string, until time.Duration, do func(*Host) error) error {
	for {
		c.advance(100 * time.Millisecond)
		err := c.wire(c.n, i, operation, func() error { return do(c.hosts[i].host) })
		c.n++
		if !errors.Is(err, errLost) || c.now >= until {
			return err
		}
		c.advance(time.Second)
	}
}

// settle lets time pass until no host has anything left to do.
func (w *world) settle() {
	w.cut = false
	defer func() { w.tick = time.Second }()
	for i := range 3000 {
		if i == 30 {
			w.tick = 10 * time.Second // what is still to come takes its time
		}
		w.advance(w.tick)
		if i%5 == 0 && !slices.ContainsFunc(w.hosts, func(n *node) bool { return !n.idle() }) {
			return
		}
	}
	for _, n := range w.hosts {
		j := n.journal()
		w.t.Errorf("%s: %s has something left to do: %s, pairs %+v, lingering %+v", w.now, n.name, j.Change.Stage, j.Change.Pairs, j.Lingering)
	}
}

// idle reports whether the host has come to the end of everything.
func (n *node) idle() bool {
	j := n.journal()
	return !j.Change.open() && len(j.Lingering) == 0
}

// outcomes of a change on all hosts, as it must be seen everywhere.
type picture struct{ sas, policies []string }

func (w *world) picture() (all []picture) {
	for _, n := range w.hosts {
		all = append(all, picture{n.sad(), n.policies()})
	}
	return all
}

func (p picture) equal(q picture) bool {
	return slices.Equal(p.sas, q.sas) && slices.Equal(p.policies, q.policies)
}

// works reports whether each host takes what each other sends.
func (w *world) works() bool {
	for _, n := range w.hosts {
		for _, m := range w.hosts {
			if n != m && !n.send(Flow{Src: n.addr, Dst: m.addr, Protocol: 17, DstPort: 7}, true) {
				return false
			}
		}
	}
	return true
}
