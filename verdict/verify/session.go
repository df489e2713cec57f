package verify

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"espalier/ipsec"
	"espalier/verdict"
)

// Session is one verification. Its sockets are made on the calling thread, in its network namespace.
type Session struct {
	Engine Engine // this host's
	Flow   Flow
	Probes uint64

	// Watch has this host's evidence gathered while during runs, and judged.
	Watch func(ctx context.Context, during func() error) (verdict.Judgement, error)
	// Peer asks the receiver; nil: it cannot be asked.
	Peer func(context.Context, Query) (Receipt, error)
	// Control allows one packet with nothing encrypted to be sent, where only its refusal makes the
	// peer's word good. The peer counts it as an attack.
	Control bool
	// Tap is a capture from the wire, which has begun; nil: none. It is read, not closed.
	Tap *os.File
	// Patience is how long what was sent may take to be counted and captured.
	Patience time.Duration
}

// Report of a session.
type Report struct {
	verdict.Probed
	verdict.Proof
	First, Last uint64 // sequence numbers that the SA used meanwhile; Last is First-1 for none
	Peer        string // the host that was asked
}

// Run sends the probes and hears who saw them. An error says that nothing could be found out.
func (s *Session) Run(ctx context.Context) (Report, error) {
	var r Report
	before, err := s.sent(ctx)
	if err != nil {
		return r, err
	}
	var asked Receipt
	if s.Peer != nil {
		if asked, err = s.ask(ctx); err != nil {
			return r, err
		}
		r.Peer = asked.Host
	}
	token := newToken()
	watch := s.openTap(token, before)
	defer watch.close()

	r.Here, err = s.Watch(ctx, func() (err error) {
		if r.Sent, err = s.Flow.send(ctx, s.Probes, token); err != nil {
			return err
		}
		r.Last, err = s.carried(ctx, before+r.Sent)
		return err
	})
	if err != nil {
		return r, err
	}
	r.First, r.Counted = before+1, r.Last-before
	if s.Peer != nil {
		if r.Probed.Peer, err = s.hear(ctx, asked, r.Sent); err != nil {
			return r, err
		}
	}
	if s.Tap != nil {
		if r.Tap, err = watch.word(ctx, r.Sent, r.Last, s.Patience); err != nil {
			return r, err
		}
	}
	r.Proof = r.Probed.Judge()
	return r, nil
}

// sent is the last sequence number that the SA has sent.
func (s *Session) sent(ctx context.Context) (uint64, error) {
	state, err := s.Engine.GetState(ctx, s.Flow.SA.ID())
	if err != nil {
		return 0, err
	}
	state.WipeKeys()         // it was read for its numbers
	if state.Replay == nil { // as the kernel has it before the first packet
		return 0, nil
	}
	return uint64(state.Replay.OSeqHi)<<32 | uint64(state.Replay.OSeq), nil
}

// carried waits until the SA has sent as many packets as were handed to the stack, and returns its
// last number.
func (s *Session) carried(ctx context.Context, want uint64) (last uint64, err error) {
	for start := time.Now(); ; time.Sleep(glance) {
		if last, err = s.sent(ctx); err != nil || last >= want || time.Since(start) >= s.Patience || ctx.Err() != nil {
			return last, err
		}
	}
}

func (s *Session) ask(ctx context.Context) (Receipt, error) {
	sa := s.Flow.SA
	receipt, err := s.Peer(ctx, Query{Dst: sa.Dst, SPI: sa.SPI})
	if err != nil {
		return receipt, fmt.Errorf("ask the peer for %s: %w", ipsec.SAID{Dst: sa.Dst, SPI: sa.SPI}, err)
	}
	return receipt, nil
}

// hear asks the peer what became of the probes, until it has them all or the patience is over, and
// puts it to the test where a NIC answers for it.
func (s *Session) hear(ctx context.Context, before Receipt, sent uint64) (*verdict.PeerWord, error) {
	var now Receipt
	for start := time.Now(); ; time.Sleep(glance) {
		var err error
		if now, err = s.ask(ctx); err != nil {
			return nil, err
		}
		w := now.since(before)
		if w.Accepted+w.Forged+w.Replayed >= sent || time.Since(start) >= s.Patience || ctx.Err() != nil {
			break
		}
	}
	w := now.since(before)
	if now.Packets < before.Packets {
		return nil, fmt.Errorf("the peer's SA was replaced meanwhile: try again")
	}
	if s.Control && w.Accepted >= sent && w.Offload != ipsec.NoOffload && !w.Userspace && s.Flow.canControl() {
		var err error
		if w.Control, err = s.control(ctx, now); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// control tries whether the receiver takes what nobody has encrypted. It is sent again where
// nothing is counted: one packet may be lost.
func (s *Session) control(ctx context.Context, before Receipt) (c verdict.Control, err error) {
	for range 3 {
		own, err := s.sent(ctx)
		if err != nil {
			return c, err
		}
		seq := own + ahead
		if err := s.Flow.sendControl(seq); err != nil {
			return c, err
		}
		time.Sleep(2 * glance)
		now, err := s.ask(ctx)
		if err != nil {
			return c, err
		}
		last, err := s.sent(ctx)
		if err != nil {
			return c, err
		}
		c = now.control(before, seq, last-own, last)
		if c != verdict.ControlRefused || now.Forged > before.Forged {
			return c, nil
		}
		before = now
	}
	return c, nil
}

// watch is a tap that is being read.
type watch struct {
	tap     *tap
	capture *capture
	reader  sync.WaitGroup
	err     error // of the reader, once it has ended
}

// openTap begins to read the session's tap, if it has one.
func (s *Session) openTap(t token, first uint64) *watch {
	w := new(watch)
	if s.Tap == nil {
		return w
	}
	if w.capture, w.err = newCapture(s.Tap); w.err != nil {
		return w
	}
	w.tap = newTap(s.Flow, t, first)
	w.reader.Go(func() { w.err = w.tap.read(w.capture) })
	return w
}

// word waits for the probes to turn up in the capture.
func (w *watch) word(ctx context.Context, probes, last uint64, patience time.Duration) (*verdict.TapWord, error) {
	for start := time.Now(); w.tap != nil && time.Since(start) < patience && ctx.Err() == nil; time.Sleep(glance) {
		if _, done := w.tap.word(probes, last); done {
			break
		}
	}
	w.close()
	if w.err != nil {
		return nil, fmt.Errorf("read the tap: %w", w.err)
	}
	word, _ := w.tap.word(probes, last)
	return &word, nil
}

// close ends the reading.
func (w *watch) close() {
	if w.capture != nil {
		w.capture.end()
	}
	w.reader.Wait()
	if w.tap != nil && w.tap.key != nil {
		w.tap.key.Wipe()
	}
}
