package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
	"espalier/xfrm/client"
	"espalier/xfrm/outage"
)

// watchOutages shows, beside the kernel's events about SAs, what it has no event for: that a link
// has gone, and offloaded SAs with it. stop ends that. Only who asks for the group SA hears of it.
func (r *xfrmRun) watchOutages(ctx context.Context, j job) (stop func()) {
	kernel, ok := r.engine.(*client.Client)
	if !ok || r.sad.socket != "" || !slices.Contains(j.Monitor.Groups, xfrm.GroupSA) {
		return func() {}
	}
	w, err := outage.Watch(ctx, kernel)
	if err != nil {
		fmt.Fprintf(r.stderr, "warning: SAs that are lost with their links are not reported: %v\n", err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for o, err := range w.Outages(ctx) {
			if ctx.Err() == nil {
				r.outage(j, &o, err)
			}
		}
	})
	return func() {
		cancel()
		watch.Wait()
		w.Close()
	}
}

// outage shows an outage or warns of what went wrong with the watch.
func (r *xfrmRun) outage(j job, o *outage.Outage, err error) {
	switch {
	case errors.Is(err, unix.ENOBUFS):
		fmt.Fprintln(r.stderr, "warning: links changed faster than it could be followed: see whether the SAs are still there")
	case err != nil:
		fmt.Fprintf(r.stderr, "warning: %v\n", err)
	default:
		if err := r.showOutage(j, o, time.Now()); err != nil {
			fmt.Fprintf(r.stderr, "warning: %v\n", err)
		}
	}
}

func (r *xfrmRun) showOutage(j job, o *outage.Outage, now time.Time) error {
	if r.format.isData() {
		return writeData(r.stdout, r.format, r.outageView(o, now))
	}
	text := outageLine(o)
	for _, sa := range o.Lost {
		text += fmt.Sprintf("\n\tsrc %s dst %s proto %s spi 0x%08x reqid %d mode %s dir %s",
			sa.Src, sa.Dst, xfrm.ProtocolName(sa.Proto), uint32(sa.SPI), sa.Reqid, sa.Mode, sa.Dir)
	}
	if r.format == formatOneLine {
		text = strings.ReplaceAll(text, "\n", "\\")
	}
	label := r.timestamp.label(now)
	if j.Monitor.AllNSID {
		label += "[nsid current]"
	}
	_, err := io.WriteString(r.stdout, label+text+"\n")
	return err
}

// outageLine is what a person has to know first.
func outageLine(o *outage.Outage) string {
	if len(o.Lost) > 0 {
		return fmt.Sprintf("Offloaded SAs lost: %s is %s", o.Device, o.State)
	}
	line := "Link " + o.Device
	switch o.State {
	case outage.NoCarrier:
		line += " has no carrier"
	case outage.Carrier:
		line += " has a carrier again"
	default:
		line += " is " + o.State.String()
	}
	switch {
	case len(o.Kept) > 0:
		line += fmt.Sprintf(", its %d offloaded SAs stay", len(o.Kept))
	case o.State == outage.Up:
		line += ", the SAs that were lost do not come back by themselves"
	}
	return line
}

// linkView is a link that offloaded SAs are, or were, on.
type linkView struct {
	Dev   string `json:"dev"`
	State string `json:"state"` // down, gone, up, no-carrier, carrier
}

// offloadedView tells an offloaded SA from others.
type offloadedView struct {
	Src   string    `json:"src"`
	Dst   string    `json:"dst"`
	Proto string    `json:"proto"`
	SPI   string    `json:"spi"`
	Reqid uint32    `json:"reqid"`
	Mode  string    `json:"mode"`
	Dir   string    `json:"dir"`
	Mark  *markView `json:"mark,omitempty"`
}

func (r *xfrmRun) outageView(o *outage.Outage, now time.Time) eventView {
	return eventView{
		Schema: schemaOf("xfrm-monitor"), OK: true, SAD: r.sad.name(), Time: unixTime(now), Event: "LINK",
		Link: &linkView{o.Device, o.State.String()}, Lost: offloadedViews(o.Lost), Kept: offloadedViews(o.Kept),
	}
}

func offloadedViews(sas []outage.SA) (views []offloadedView) {
	for _, sa := range sas {
		v := offloadedView{
			Src: addrText(sa.Src), Dst: addrText(sa.Dst), Proto: xfrm.ProtocolName(sa.Proto), SPI: sa.SPI.String(),
			Reqid: sa.Reqid, Mode: sa.Mode.String(), Dir: sa.Dir.String(),
		}
		if sa.Mark != (xfrm.Mark{}) {
			v.Mark = &markView{sa.Mark.Value, sa.Mark.Mask}
		}
		views = append(views, v)
	}
	return views
}

// lockedWriter lets several goroutines write, each Write as a whole.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
