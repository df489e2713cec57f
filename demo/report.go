package demo

import (
	"fmt"
	"io"
	"net/netip"
	"text/tabwriter"
	"time"

	"espalier/internal/wire"
	"espalier/ipsec"
	"espalier/verdict"
)

// Report is what a run saw. Its JSON form has schema espalier/demo/v1.
type Report struct {
	Schema    string          `json:"schema"`
	OK        bool            `json:"ok"`
	Failures  []string        `json:"failures"` // why OK is false
	Verdict   verdict.Verdict `json:"verdict"`
	Wire      wire.Counts     `json:"wire"`
	Pings     []Ping          `json:"pings"`
	Transfers []Transfer      `json:"transfers"`
	SAs       []SAReport      `json:"sas"`
}

// Ping is a series of echo requests that were all answered.
type Ping struct {
	From      netip.Addr    `json:"from"`
	To        netip.Addr    `json:"to"`
	Count     int           `json:"count"`
	MedianRTT time.Duration `json:"median_rtt_ns"`
}

// Transfer is a TCP transfer whose content was compared.
type Transfer struct {
	From          netip.Addr `json:"from"`
	To            netip.Addr `json:"to"`
	Bytes         int64      `json:"bytes"`
	Seconds       float64    `json:"seconds"`
	GbitPerSecond float64    `json:"gbit_per_second"`
}

// SAReport is one SA on one host as read back at the end.
type SAReport struct {
	Host      string          `json:"host"`
	Direction string          `json:"direction"`
	SPI       string          `json:"spi"`
	Src       netip.Addr      `json:"src"`
	Dst       netip.Addr      `json:"dst"`
	Mode      string          `json:"mode"`
	Packets   uint64          `json:"packets"`
	Bytes     uint64          `json:"bytes"`
	Sequence  uint64          `json:"sequence"` // last sent, or highest received
	Replay    uint64          `json:"replay_drops"`
	Window    uint64          `json:"window_drops"`
	Integrity uint64          `json:"integrity_drops"`
	Verdict   verdict.Verdict `json:"verdict"`
	Why       string          `json:"why"`
}

func newSAReport(host string, sa *ipsec.SA, v verdict.Verdict, why string) SAReport {
	c := &sa.Counters
	s := SAReport{
		Host: host, Direction: sa.Direction.String(), SPI: sa.SPI.String(), Src: sa.Src, Dst: sa.Dst, Mode: sa.Mode.String(),
		Packets: c.Packets, Bytes: c.Bytes, Sequence: c.Sent,
		Replay: c.ReplayDrops, Window: c.WindowDrops, Integrity: c.IntegrityDrops,
		Verdict: v, Why: why,
	}
	if sa.Direction == ipsec.Inbound {
		s.Sequence = c.Received
	}
	return s
}

const schema = "espalier/demo/v1"

// Failed is the report of a run that could not be carried to its end.
func Failed(err error) *Report {
	return &Report{
		Schema: schema, Verdict: verdict.Unknown, Failures: []string{err.Error()},
		Pings: []Ping{}, Transfers: []Transfer{}, SAs: []SAReport{},
	}
}

// conclude decides whether all held.
func (r *Report) conclude() {
	r.Schema = schema
	r.Failures = []string{}
	fail := func(format string, args ...any) { r.Failures = append(r.Failures, fmt.Sprintf(format, args...)) }
	if r.Wire.Cleartext > 0 {
		fail("%d cleartext packets on the wire", r.Wire.Cleartext)
	}
	if r.Wire.ESP == 0 {
		fail("no ESP packet on the wire")
	}
	if r.Wire.Dropped > 0 {
		fail("the tap lost %d packets: nothing is proven about those", r.Wire.Dropped)
	}
	r.Verdict = verdict.Unknown
	for i, s := range r.SAs {
		if i == 0 {
			r.Verdict = s.Verdict
		} else if r.Verdict != s.Verdict {
			r.Verdict = verdict.Mixed
		}
		if s.Verdict != verdict.Emulated {
			fail("SA %s on host %s is %s: %s", s.SPI, s.Host, s.Verdict, s.Why)
		}
		if n := s.Replay + s.Window + s.Integrity; n > 0 {
			fail("SA %s on host %s dropped %d packets", s.SPI, s.Host, n)
		}
	}
	if len(r.SAs) == 0 {
		fail("no SA")
	}
	r.OK = len(r.Failures) == 0
}

// WriteText prints the report for a person. The line that says that all is well is the
// caller's: it is the very last.
func (r *Report) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nhost\tdir\tspi\ttraffic\tpackets\tbytes\tsequence\tverdict\n")
	for _, s := range r.SAs {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%d\t%s\n", s.Host, s.Direction, s.SPI, traffic(&s), s.Packets, byteCount(int64(s.Bytes)), s.Sequence, s.Verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, p := range r.Pings {
		fmt.Fprintf(w, "ping %s → %s: %d of %d answered, median %s\n", p.From, p.To, p.Count, p.Count, p.MedianRTT.Round(time.Microsecond))
	}
	for _, x := range r.Transfers {
		fmt.Fprintf(w, "TCP  %s → %s: %s, %.2f Gb/s\n", x.From, x.To, byteCount(x.Bytes), x.GbitPerSecond)
	}
	fmt.Fprintf(w, "\nwire: %d ESP packets, %d cleartext packets, %d neighbour discovery, %d lost\n",
		r.Wire.ESP, r.Wire.Cleartext, r.Wire.Discovery, r.Wire.Dropped)
	for _, f := range r.Failures {
		fmt.Fprintf(w, "FAILED: %s\n", f)
	}
	_, err := fmt.Fprintf(w, "verdict: %s\n", r.Verdict)
	return err
}

// traffic names the direction an SA carries, such as "IPv4 A→B".
func traffic(s *SAReport) string {
	for _, f := range families {
		switch s.Src {
		case f.a:
			return f.name + " A→B"
		case f.b:
			return f.name + " B→A"
		}
	}
	return s.Src.String() + "→" + s.Dst.String()
}

func byteCount(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
