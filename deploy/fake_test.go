package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/remote"
	"espalier/tunnel"
	"espalier/xfrm"
)

// trace is what was asked of all hosts, in order: "host operation".
type trace struct {
	mu    sync.Mutex
	lines []string
}

func (l *trace) add(host, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, host+" "+what)
}

// fake is a host that keeps to the rules, and does as it is told by a test besides.
type fake struct {
	name string
	conn *remote.Conn

	mu     sync.Mutex
	change string
	stage  steps.Stage
	log    *trace
	left   time.Duration // until it undoes a change, when it begins
	later  time.Duration // that it was told when it confirmed
	// forgotten says that it was told that all hosts have finished.
	forgotten bool
	offload   string // that is read back
	verdict   string
	probe     func(steps.ProbeQuestion) steps.ProbeAnswer // nil: probes come
	keys      [][]byte                                    // payloads of SAs, as they came
	// before and after are called around an operation; an error is the operation's own.
	before, after func(operation string) error
	dial          func() error // nil: can be reached
}

// cut ends the connection that an operation came by, and has the operation answer nothing.
func (f *fake) cut(ctx context.Context) error {
	go f.conn.Close()
	<-ctx.Done()
	return context.Cause(ctx)
}

func (f *fake) Dial(context.Context) (*remote.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dial != nil {
		if err := f.dial(); err != nil {
			return nil, err
		}
	}
	f.conn = remote.Local(f.name, f.operations())
	return f.conn, nil
}

func (f *fake) Knock(context.Context) error {
	f.log.add(f.name, "fresh")
	return nil
}

var errCut = errors.New("cut")

func (f *fake) operations() remote.Operations {
	ops := remote.Operations{}
	progress := func() steps.Progress { return steps.Progress{Change: f.change, Stage: f.stage} }
	begun := func() steps.Progress { return steps.Progress{Change: f.change, Stage: f.stage, Left: f.left} }
	serve(f, ops, steps.State, func(struct{}) (steps.Progress, error) { return progress(), nil })
	serve(f, ops, steps.Begin, func(q steps.BeginQuestion) (steps.Progress, error) {
		if f.change != q.Change && f.stage == steps.Open {
			return steps.Progress{}, errors.New("another change is under way")
		}
		if f.change != q.Change {
			f.change, f.stage = q.Change, steps.Open
		}
		return begun(), nil
	})
	add := func(q steps.SAsQuestion) (a steps.SAsAnswer, err error) {
		for _, sa := range q.SAs {
			f.keys = append(f.keys, sa)
			a.SAs = append(a.SAs, steps.ReadBack{Offload: f.offload, ESN: true, Window: 64})
		}
		return a, f.open(q.Change)
	}
	serve(f, ops, steps.Inbound, add)
	serve(f, ops, steps.Outbound, add)
	serve(f, ops, steps.Policies, func(q steps.PoliciesQuestion) (steps.Progress, error) { return progress(), f.open(q.Change) })
	serve(f, ops, steps.Probe, func(q steps.ProbeQuestion) (steps.ProbeAnswer, error) {
		if f.probe != nil {
			return f.probe(q), f.open(q.Change)
		}
		return steps.ProbeAnswer{Seen: []steps.Seen{{Tunnel: "db", Packets: 3}}}, f.open(q.Change)
	})
	serve(f, ops, steps.Guard, func(q steps.Question) (steps.Progress, error) { return progress(), f.open(q.Change) })
	serve(f, ops, steps.Confirm, func(q steps.Question) (steps.Progress, error) {
		f.later = q.Later
		if err := f.open(q.Change); err != nil && f.stage != steps.Confirmed {
			return steps.Progress{}, err
		}
		f.stage = steps.Confirmed
		return progress(), nil
	})
	serve(f, ops, steps.Finish, func(q steps.Question) (steps.Progress, error) {
		f.stage = steps.Finished
		return progress(), nil
	})
	serve(f, ops, steps.Forget, func(q steps.Question) (steps.Progress, error) {
		f.forgotten = true
		return progress(), nil
	})
	serve(f, ops, steps.Undo, func(q steps.Question) (steps.Progress, error) {
		if f.change != q.Change {
			return steps.Progress{}, errors.New("there is no such change here")
		}
		f.stage = steps.Undone
		return progress(), nil
	})
	serve(f, ops, statusCommand, func(remote.CommandQuestion) (remote.CommandAnswer, error) {
		text := ""
		for _, payload := range f.keys {
			if sa, err := xfrm.DecodeState(payload); err == nil {
				text += fmt.Sprintf(`,{"out": {"spi": %q, "dst": %q, "verdict": %q, "reason": "because"}}`, sa.SPI.String(), sa.Dst.String(), f.verdict)
			}
		}
		return remote.CommandAnswer{Stdout: []byte(`{"pairs": [` + text[min(1, len(text)):] + `]}`)}, nil
	})
	return ops
}

func (f *fake) open(change string) error {
	if f.change != change || f.stage != steps.Open {
		return fmt.Errorf("the change is not open here any more (%s)", f.stage)
	}
	return nil
}

func serve[Q, A any](f *fake, ops remote.Operations, name string, do func(Q) (A, error)) {
	ops[name] = remote.JSON(func(ctx context.Context, q Q, _ remote.Progress) (a A, err error) {
		f.mu.Lock()
		f.log.add(f.name, name)
		before, after := f.before, f.after
		f.mu.Unlock()
		if before != nil {
			err = before(name)
		}
		if err == nil {
			f.mu.Lock()
			a, err = do(q)
			f.mu.Unlock()
		}
		if err == nil && after != nil {
			err = after(name)
		}
		if errors.Is(err, errCut) {
			err = f.cut(ctx)
		}
		return a, err
	})
}

var addressA, addressB = netip.MustParseAddr("192.168.1.64"), netip.MustParseAddr("192.168.1.65")

// twoHosts are fakes, and a plan for them.
func twoHosts(t *testing.T, kind steps.Kind) ([]*fake, []Host, *tunnel.Plan, *trace) {
	log := &trace{}
	of := &config.Tunnel{Name: "db"}
	of.KeySize = 256
	plan := &tunnel.Plan{Pairs: []tunnel.Pair{{Tunnel: "db", Of: of, Action: tunnel.Create}}}
	var fakes []*fake
	var hosts []Host
	for i, name := range []string{"db1", "db2"} {
		f := &fake{name: name, log: log, offload: "crypto", verdict: "HARDWARE"}
		conn, err := f.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h := Host{Host: tunnel.Host{Name: name, SSH: config.SSH{To: name}}, Conn: conn, Dial: f.Dial, Knock: f.Knock}
		plan.Hosts = append(plan.Hosts, h.Host)
		local, peer := addressA, addressB
		if i == 1 {
			local, peer = peer, local
		}
		e := tunnel.End{Host: i, Engine: "kernel", Device: "p4p1", Local: local, Remote: peer}
		if kind != steps.Down {
			sa := func(src, dst netip.Addr, d ipsec.Direction) tunnel.SA {
				return tunnel.SA{SA: ipsec.SA{SPI: 0x1000, Src: src, Dst: dst, Direction: d, RequestID: 7, ESN: true, Window: 64, ICVBits: 128}}
			}
			e.Outbound = []tunnel.SA{sa(local, peer, ipsec.Outbound)}
			e.Inbound = []tunnel.SA{sa(peer, local, ipsec.Inbound)}
		}
		plan.Pairs[0].Ends[i] = e
		fakes, hosts = append(fakes, f), append(hosts, h)
		t.Cleanup(func() { f.conn.Close() }) // the last one
	}
	return fakes, hosts, plan, log
}

func options(kind steps.Kind) Options {
	return Options{Kind: kind, Coordinator: "here", Origin: "here:/f", Timeout: 5 * time.Second}
}
