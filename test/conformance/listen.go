package conformance

import (
	"context"
	"strings"
	"time"

	"espalier/xfrm"
)

const (
	// patience is how long something may take that has to come.
	patience = 10 * time.Second
	// silence is how long nothing is waited for. Too short a time misses what should not come,
	// but fails nothing that is right.
	silence = 150 * time.Millisecond
)

// listener collects events.
type listener struct {
	e      *env
	events chan xfrm.Event
}

// listen joins groups until the case ends.
func (e *env) listen(groups ...uint32) *listener {
	ctx, cancel := context.WithCancel(e.ctx)
	l := &listener{e: e, events: make(chan xfrm.Event, 1000)}
	all := e.Client.Listen(ctx, groups...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event, err := range all {
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				e.Errorf("listen: %v", err)
			default:
				l.events <- event
			}
		}
	}()
	e.Cleanup(func() { cancel(); <-done })
	return l
}

// next is the next event, which has to come.
func (l *listener) next() xfrm.Event {
	l.e.Helper()
	select {
	case event := <-l.events:
		return event
	case <-time.After(patience):
		l.e.Fatal("no event")
		return xfrm.Event{}
	}
}

// of waits for n events, and for a while for more. It gives them in words.
func (l *listener) of(n int) string {
	l.e.Helper()
	var words []string
	wait := time.After(patience)
	for {
		if len(words) >= n {
			wait = time.After(silence)
		}
		select {
		case event := <-l.events:
			words = append(words, wordsOf(&event))
			continue
		case <-wait:
		}
		if len(words) == 0 {
			return "-"
		}
		return strings.Join(words, " ")
	}
}

// wordsOf is the kind of an event, and whether a limit was the hard one.
func wordsOf(e *xfrm.Event) string {
	word := e.Kind.String()
	switch {
	case e.Kind != xfrm.MsgExpire && e.Kind != xfrm.MsgPolExpire:
		return word
	case e.Hard:
		return word + "(hard)"
	}
	return word + "(soft)"
}
