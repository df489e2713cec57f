package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"espalier/probe"
	"espalier/remote"
)

// doctorHostsView is the JSON of `espalier doctor --host`.
type doctorHostsView struct {
	Schema string       `json:"schema"`
	OK     bool         `json:"ok"` // every host is READY
	Hosts  []doctorHost `json:"hosts"`
}

// doctorHost is what one host came to: a report, or why there is none.
type doctorHost struct {
	Host      string          `json:"host"` // as it was given
	Readiness probe.Readiness `json:"readiness"`
	Error     string          `json:"error,omitempty"`  // why nobody could look
	Report    *doctorView     `json:"report,omitempty"` // as of espalier doctor there
}

// runOnHosts asks the doctor on other hosts, all at once.
func (d *doctor) runOnHosts(ctx context.Context, stdout io.Writer) error {
	if d.bundle.path != "" {
		return usageError(errors.New("--bundle is of one host: say it there, without --host"))
	}
	if err := d.trial.check(d.stdin); err != nil {
		return err
	}
	opt := d.hosts.options(remote.RootIfCan, d.stderr)
	args := []string{"-o", "json"}
	if d.trial.wanted {
		opt.Root = remote.RootRequired
		if err := d.trial.confirm(ctx, d.stdin, d.stderr, d.namesOnHosts()); err != nil {
			return err
		}
		args = append(args, "--trial", "--yes")
	}
	args = append(append(args, "--"), d.devices...)
	view := doctorHostsView{Schema: schemaOf("doctor-hosts"), Hosts: make([]doctorHost, len(d.hosts.names))}
	var all sync.WaitGroup
	for i, host := range d.hosts.names {
		all.Go(func() { view.Hosts[i] = doctorOn(ctx, host, args, opt) })
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	worst := probe.Ready
	for _, host := range view.Hosts {
		worst = worst.Worst(host.Readiness)
	}
	view.OK = worst == probe.Ready
	var err error
	if d.as.isData() {
		err = writeData(stdout, d.as, view)
	} else {
		err = view.writeText(stdout, d.as == formatWide)
	}
	return errors.Join(err, readinessExit(worst))
}

// namesOnHosts are what a trial is to try, for whoever is asked.
func (d *doctor) namesOnHosts() (names []string) {
	devices := "the NICs that the doctor finds"
	if len(d.devices) > 0 {
		devices = strings.Join(d.devices, ", ")
	}
	for _, host := range d.hosts.names {
		names = append(names, devices+" of "+host)
	}
	return names
}

func doctorOn(ctx context.Context, host string, args []string, opt remote.Options) doctorHost {
	view, err := askDoctor(ctx, host, args, opt)
	if err != nil {
		return doctorHost{Host: host, Readiness: probe.Unclear, Error: hostWords(err)}
	}
	return doctorHost{Host: host, Readiness: view.Readiness, Report: view}
}

func askDoctor(ctx context.Context, host string, args []string, opt remote.Options) (*doctorView, error) {
	c, err := connect(ctx, host, opt)
	if err != nil {
		return nil, err
	}
	defer c.Close() // the report counts, however ssh ends
	answer, err := c.Run(ctx, "doctor", args, nil, nil)
	if err != nil {
		return nil, err
	}
	if answer.Code == exitFailed || answer.Code == exitUsage || len(answer.Stdout) == 0 { // there is no report
		return nil, errors.New(strings.TrimSpace(answer.Stderr))
	}
	view := new(doctorView)
	if err := json.Unmarshal(answer.Stdout, view); err != nil {
		return nil, fmt.Errorf("the doctor's report cannot be read: %w", err)
	}
	return view, nil
}

// writeText writes a line for each device, or host without any; wide adds each host's screen. What
// other hosts say is made fit for a terminal.
func (v *doctorHostsView) writeText(w io.Writer, wide bool) error {
	rows := [][]string{{"HOST", "DEVICE", "VERDICT", "REASON"}}
	add := func(host, device string, r probe.Readiness, reason string, warnings []string) {
		if reason == "" && len(warnings) > 0 {
			reason = "but " + someWarnings(warnings)
		}
		rows = append(rows, []string{host, remote.Printable(device), remote.Printable(string(r)), remote.Printable(reason)})
	}
	for _, h := range v.Hosts {
		switch {
		case h.Report == nil:
			add(h.Host, "-", h.Readiness, h.Error, nil)
		case len(h.Report.Devices) == 0:
			add(h.Host, "-", h.Readiness, h.Report.Reason, h.Report.Warnings)
		default:
			for _, d := range h.Report.Devices {
				add(h.Host, d.Name, d.Readiness, d.Reason, d.Warnings)
			}
		}
	}
	var b bytes.Buffer
	s := newScreen(w)
	s.writeRows(&b, rows)
	for _, h := range v.Hosts {
		if !wide || h.Report == nil {
			continue
		}
		var report bytes.Buffer
		if err := writeReport(&report, screen{width: s.width}, h.Report.Report, wide); err != nil {
			return err
		}
		for _, tried := range h.Report.Trials {
			report.WriteByte('\n')
			if err := tried.WriteText(&report); err != nil {
				return err
			}
		}
		fmt.Fprintf(&b, "\n== %s\n\n", h.Host)
		for line := range strings.Lines(report.String()) {
			b.WriteString(strings.TrimRight(remote.Printable(line), " ") + "\n")
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// writeRows writes a table whose last column is wrapped, below the others where they leave it no room.
func (s screen) writeRows(b *bytes.Buffer, rows [][]string) {
	last := len(rows[0]) - 1
	widths := make([]int, last)
	for _, row := range rows {
		for i := range widths {
			widths[i] = max(widths[i], columns(row[i]))
		}
	}
	for number, row := range rows {
		var line strings.Builder
		for i, width := range widths {
			line.WriteString(row[i] + strings.Repeat(" ", width-columns(row[i])+2))
		}
		if s.width-columns(line.String()) < narrow {
			b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
			if number == 0 { // nothing stands below its heading
				continue
			}
			for _, text := range wrap(row[last], s.width-4) {
				b.WriteString("    " + text + "\n")
			}
			continue
		}
		lines := wrap(row[last], s.width-columns(line.String()))
		if len(lines) == 0 {
			lines = []string{""}
		}
		for i, text := range lines {
			if i > 0 {
				text = strings.Repeat(" ", columns(line.String())) + text
			} else {
				text = line.String() + text
			}
			b.WriteString(strings.TrimRight(text, " ") + "\n")
		}
	}
}
