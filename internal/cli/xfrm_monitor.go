package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
	"espalier/xfrm/client"
)

// timestamp is what -t and -ts ask for.
type timestamp uint8

const (
	timestampNone timestamp = iota
	timestampLong
	timestampShort
)

// label is what stands before an event that came now.
func (t timestamp) label(now time.Time) string {
	switch t {
	case timestampLong:
		return fmt.Sprintf("Timestamp: %s %d usec\n", now.Format(time.ANSIC), now.Nanosecond()/1000)
	case timestampShort:
		return now.Format("[2006-01-02T15:04:05.000000] ")
	}
	return ""
}

// monitor prints events until it is interrupted or the engine ends.
func (r *xfrmRun) monitor(ctx context.Context, j job) error {
	if j.Monitor.File != "" {
		return r.monitorFile(j)
	}
	r.stdout, r.stderr = &lockedWriter{w: r.stdout}, &lockedWriter{w: r.stderr}
	defer r.watchOutages(ctx, j)()
	if j.Monitor.AllNSID {
		return r.monitorAll(ctx, j)
	}
	for e, err := range r.engine.Listen(ctx, j.Monitor.Groups...) {
		if err := r.event(ctx, j, &e, err, nil); err != nil {
			return err
		}
	}
	return nil
}

// allListener is an engine that hears of other network namespaces.
type allListener interface {
	ListenAllNamespaces(ctx context.Context, groups ...uint32) iter.Seq2[client.NamespaceEvent, error]
}

func (r *xfrmRun) monitorAll(ctx context.Context, j job) error {
	all, ok := r.engine.(allListener)
	if !ok || r.sad.socket != "" {
		return &exitError{exitXfrmSemantic, errors.New("all-nsid: only the kernel has network namespaces, a userspace device is of one")}
	}
	for e, err := range all.ListenAllNamespaces(ctx, j.Monitor.Groups...) {
		if err := r.event(ctx, j, &e.Event, err, &e.NSID); err != nil {
			return err
		}
	}
	return nil
}

// event shows an event or warns of what went wrong with it. An error ends the monitor.
func (r *xfrmRun) event(ctx context.Context, j job, e *xfrm.Event, err error, nsid *int) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.ENOBUFS):
		fmt.Fprintln(r.stderr, "warning: events came faster than they could be read, and some are lost")
		return nil
	case err != nil && e.Kind != 0: // one event that makes no sense
		fmt.Fprintf(r.stderr, "warning: %v\n", err)
		return nil
	case err != nil:
		return err
	}
	return r.showEvent(j, e, nsid)
}

// monitorFile prints the messages in a file.
func (r *xfrmRun) monitorFile(j job) error {
	content, err := os.ReadFile(j.Monitor.File)
	if err != nil {
		return &exitError{exitXfrmSyntax, plainPathError(err)}
	}
	defer clear(content) // there may be keys in it
	for m, err := range xfrm.Messages(content) {
		if err != nil {
			return &exitError{exitXfrmSemantic, fmt.Errorf("%s: %w", j.Monitor.File, err)}
		}
		e, err := xfrm.DecodeEvent(m)
		if err != nil {
			fmt.Fprintf(r.stderr, "warning: %s: %v\n", e.Kind, err)
			continue
		}
		if err := r.showEvent(j, &e, nil); err != nil {
			return err
		}
	}
	return nil
}

// showEvent prints an event, with the id of its namespace if that was asked for.
func (r *xfrmRun) showEvent(j job, e *xfrm.Event, nsid *int) error {
	now := time.Now()
	if nsid != nil && *nsid == client.OwnNSID {
		nsid = nil
	}
	if r.format.isData() {
		v := r.eventView(e, now)
		v.NSID = nsid
		return writeData(r.stdout, r.format, v)
	}
	opt := r.printOptions(j)
	opt.Label = r.timestamp.label(now)
	switch {
	case nsid != nil:
		opt.Label += fmt.Sprintf("[nsid %d]", *nsid)
	case j.Monitor.AllNSID:
		opt.Label += "[nsid current]"
	}
	return xfrm.FprintEvent(r.stdout, e, opt)
}

// eventView is one event. Event tells which of the other fields are there.
type eventView struct {
	Schema string  `json:"schema"`
	OK     bool    `json:"ok"`
	SAD    string  `json:"sad,omitempty"` // empty for a file
	Time   float64 `json:"time"`          // Unix seconds
	Event  string  `json:"event"`         // NEWSA, EXPIRE, ACQUIRE …; LINK is no message of the kernel's SAD
	NSID   *int    `json:"nsid,omitempty"`

	State    *stateView      `json:"state,omitempty"`
	Policy   *policyView     `json:"policy,omitempty"`
	Src      string          `json:"src,omitempty"`
	Dst      string          `json:"dst,omitempty"`
	Proto    string          `json:"proto,omitempty"`
	SPI      string          `json:"spi,omitempty"`
	Reqid    uint32          `json:"reqid,omitempty"`
	Seq      uint32          `json:"seq,omitempty"`
	Hard     *bool           `json:"hard,omitempty"`
	Selector *selectorView   `json:"sel,omitempty"`
	Flags    uint32          `json:"flags,omitempty"` // of an aevent
	Replay   *replayView     `json:"replay,omitempty"`
	NewSrc   string          `json:"new_src,omitempty"`
	NewPort  uint16          `json:"new_port,omitempty"`
	PType    string          `json:"ptype,omitempty"`
	Defaults *defaultActions `json:"defaults,omitempty"`

	Link *linkView       `json:"link,omitempty"`
	Lost []offloadedView `json:"lost,omitempty"` // offloaded SAs that went with the link
	Kept []offloadedView `json:"kept,omitempty"` // those still on it
}

func unixTime(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func (r *xfrmRun) eventView(e *xfrm.Event, now time.Time) eventView {
	v := eventView{
		Schema: schemaOf("xfrm-monitor"), OK: true, Time: unixTime(now), Event: e.Kind.String(),
		Reqid: e.Reqid, Seq: e.Seq, NewSrc: addrText(e.NewSrc), NewPort: e.NewPort,
	}
	if r.engine != nil {
		v.SAD = r.sad.name()
	}
	if e.State != nil {
		s := r.stateView(e.State)
		v.State = &s
	}
	if e.Policy != nil {
		p := r.policyView(e.Policy)
		v.Policy = &p
	}
	if id := e.StateID; id != nil {
		v.Src, v.Dst, v.Proto, v.SPI = addrText(id.Src), addrText(id.Dst), xfrm.ProtocolName(id.Proto), id.SPI.String()
	}
	if e.Sel != nil {
		s := r.selectorView(e.Sel)
		v.Selector = &s
	}
	switch e.Kind {
	case xfrm.MsgExpire, xfrm.MsgPolExpire:
		v.Hard = &e.Hard
	case xfrm.MsgFlushSA, xfrm.MsgReport:
		v.Proto = xfrm.ProtocolName(e.Proto)
	case xfrm.MsgFlushPolicy:
		v.PType = e.PolicyType.String()
	case xfrm.MsgNewAE:
		v.Flags, v.Replay = uint32(e.AE.Flags), replayOf(e.AE.Replay)
	case xfrm.MsgGetDefault:
		d := e.Defaults
		v.Defaults = &defaultActions{In: d.In.String(), Fwd: d.Fwd.String(), Out: d.Out.String()}
	}
	return v
}
