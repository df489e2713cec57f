package accept

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Result of a step.
type Result string

const (
	Passed  Result = "passed"
	Failed  Result = "failed"
	Skipped Result = "skipped"
)

// Schema of the report as JSON.
const Schema = "espalier/accept/v1"

// Report is what came of a run. There are no keys, names of hosts and addresses in it: the hosts are A
// and B, and so are their addresses.
type Report struct {
	Schema  string       `json:"schema"`
	OK      bool         `json:"ok"`      // no step failed
	Verdict string       `json:"verdict"` // who encrypted: one word if both hosts say the same of all SAs, else "A: …, B: …"
	Started time.Time    `json:"started"`
	Traffic string       `json:"traffic"` // what sent it: iperf3, or espalier
	Hosts   []HostReport `json:"hosts"`   // A, B
	Steps   []StepReport `json:"steps"`
}

// HostReport is what the doctor found.
type HostReport struct {
	Host         string   `json:"host"` // A or B
	Espalier     string   `json:"espalier"`
	Kernel       string   `json:"kernel"`
	Distribution string   `json:"distribution"`
	Device       string   `json:"device"`
	Driver       string   `json:"driver"`
	SAD          string   `json:"sad"` // kernel, or a userspace device
	Readiness    string   `json:"readiness"`
	Reason       string   `json:"reason,omitempty"`
	NotYes       []string `json:"not_yes,omitempty"` // the doctor's answers of no and unknown
}

// StepReport is one step.
type StepReport struct {
	Name      string           `json:"name"`
	Result    Result           `json:"result"`
	Error     string           `json:"error,omitempty"`
	Seconds   float64          `json:"seconds"`
	Facts     []string         `json:"facts,omitempty"`
	Transfers []TransferReport `json:"transfers,omitempty"`
	Verdicts  []Judged         `json:"verdicts,omitempty"`

	mu *sync.Mutex
}

// TransferReport is a TCP connection as its receiver saw it.
type TransferReport struct {
	From       string  `json:"from"` // A or B
	To         string  `json:"to"`
	Bytes      int64   `json:"bytes"`
	Gbit       float64 `json:"gbit_per_second"`
	LongestGap float64 `json:"longest_gap_seconds,omitempty"` // without a byte; 0 is not known
}

// Judged is what espalier status says on one host about the SAs of the run.
type Judged struct {
	Host  string     `json:"host"`
	SAs   []JudgedSA `json:"sas"`
	Drops []string   `json:"drops,omitempty"` // reasons for which packets were dropped meanwhile
}

// JudgedSA is one of them.
type JudgedSA struct {
	SPI       string   `json:"spi"`
	Direction string   `json:"direction"`
	Verdict   string   `json:"verdict"`
	Why       string   `json:"why"`
	Unchecked []string `json:"unchecked,omitempty"`
}

func (s *StepReport) fact(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Facts = append(s.Facts, fmt.Sprintf(format, args...))
}

func (s *StepReport) transferred(from, to string, t Transfer) {
	s.mu.Lock()
	s.Transfers = append(s.Transfers, TransferReport{from, to, t.Bytes, t.Gbit(), t.Longest.Seconds()})
	s.mu.Unlock()
	text := fmt.Sprintf("TCP %s→%s: %.2f Gb/s", from, to, t.Gbit())
	if t.Longest > 0 {
		text += fmt.Sprintf(", longest without a byte %s", t.Longest.Round(time.Millisecond))
	}
	s.fact("%s", text)
}

// conclude fills in what is known of the hosts, judges all, and takes names out.
func (r *Report) conclude(hosts []*Host) {
	r.OK = true
	for _, s := range r.Steps {
		r.OK = r.OK && s.Result != Failed
	}
	var each []string
	verdicts := make(map[string]bool)
	for _, h := range hosts {
		report := HostReport{
			Host: h.label, Espalier: h.Conn.Hello().Version, Kernel: h.doctor.Kernel, Distribution: h.doctor.Distribution,
			Device: h.Device, Driver: h.link.Driver, SAD: h.engine, Readiness: string(h.doctor.Readiness), Reason: h.doctor.Reason, NotYes: notYes(h.doctor),
		}
		if strings.HasPrefix(report.SAD, "unix:") {
			report.SAD = "userspace device"
		}
		r.Hosts = append(r.Hosts, report)
		said := r.verdictsOf(h.label)
		each = append(each, h.label+": "+strings.Join(said, " and "))
		for _, v := range said {
			verdicts[v] = true
		}
	}
	r.Verdict = strings.Join(each, ", ")
	if len(verdicts) == 1 {
		for v := range verdicts {
			r.Verdict = v
		}
	}
	r.redact(hosts)
}

// verdictsOf are the different ones that a host gave; UNKNOWN if it gave none.
func (r *Report) verdictsOf(label string) (all []string) {
	for _, s := range r.Steps {
		for _, j := range s.Verdicts {
			for _, sa := range j.SAs {
				if j.Host == label && !slices.Contains(all, sa.Verdict) {
					all = append(all, sa.Verdict)
				}
			}
		}
	}
	if all == nil {
		return []string{"UNKNOWN"}
	}
	return all
}

// hardwareAddress is a MAC.
var hardwareAddress = regexp.MustCompile(`(?i)\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`)

// redact replaces names and addresses of the hosts in every text.
func (r *Report) redact(hosts []*Host) {
	text := redactor(hosts)
	each := func(all []string) {
		for i := range all {
			all[i] = text(all[i])
		}
	}
	for i := range r.Hosts {
		h := &r.Hosts[i]
		h.Reason = text(h.Reason)
		each(h.NotYes)
	}
	for i := range r.Steps {
		s := &r.Steps[i]
		s.Error = text(s.Error)
		each(s.Facts)
		for j := range s.Verdicts {
			each(s.Verdicts[j].Drops)
			for k := range s.Verdicts[j].SAs {
				sa := &s.Verdicts[j].SAs[k]
				sa.Why = text(sa.Why)
				each(sa.Unchecked)
			}
		}
	}
}

// redactor knows the names and addresses of the hosts.
func redactor(hosts []*Host) func(string) string {
	by := make(map[string]string)
	know := func(what, instead string) {
		if _, known := by[what]; !known && len(what) > 1 { // "." is this host
			by[what] = instead
		}
	}
	for _, h := range hosts {
		know(h.Address.String(), "["+h.label+"]")
		for _, name := range []string{h.Conn.Host(), h.Conn.Hello().Hostname, h.doctor.Host} {
			know(name, "[host "+h.label+"]")
		}
	}
	for _, h := range hosts {
		s := h.Conn.Session()
		addresses := []netip.Addr{s.Client, s.Server}
		for _, l := range h.links {
			for _, a := range l.Addresses {
				addresses = append(addresses, a.Addr())
			}
		}
		for _, a := range addresses {
			if a.IsValid() {
				know(a.String(), "[address]")
			}
		}
	}
	// The longest first: one may begin with another. Names stand alone: db is not part of dbus.
	var known []string
	for what := range by {
		known = append(known, regexp.QuoteMeta(what))
	}
	slices.SortFunc(known, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	names := regexp.MustCompile(`(^|[^\w.:@-])(` + strings.Join(known, "|") + `)\b`)
	return func(s string) string {
		s = hardwareAddress.ReplaceAllString(s, "[MAC]")
		return names.ReplaceAllStringFunc(s, func(found string) string {
			for at := range found[:min(len(found), 5)] { // what stands before it is one character
				if instead, ok := by[found[at:]]; ok {
					return found[:at] + instead
				}
			}
			return found
		})
	}
}

// WriteMarkdown writes the report for people, with the JSON at its end.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	result := "passed"
	if !r.OK {
		result = "FAILED"
	}
	fmt.Fprintf(&b, "# espalier accept: %s, %s\n\n", result, r.Verdict)
	fmt.Fprintf(&b, "%s. Names and addresses of the hosts were taken out; keys never were in.\n\n", r.Started.UTC().Format("2006-01-02 15:04 MST"))
	b.WriteString("| host | kernel | distribution | device | driver | SAD | doctor |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, h := range r.Hosts {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", h.Host, cell(h.Kernel), cell(h.Distribution), cell(h.Device), cell(h.Driver), h.SAD, cell(h.Readiness+" "+h.Reason))
	}
	b.WriteString("\n| step | result | seconds |\n| --- | --- | --- |\n")
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "| %s | %s | %.1f |\n", s.Name, s.Result, s.Seconds)
	}
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "\n## %s: %s\n\n", s.Name, s.Result)
		if s.Error != "" {
			fmt.Fprintf(&b, "%s\n\n", s.Error)
		}
		for _, f := range s.Facts {
			fmt.Fprintf(&b, "- %s\n", f)
		}
	}
	for _, h := range r.Hosts {
		if len(h.NotYes) > 0 {
			fmt.Fprintf(&b, "\n## The doctor on host %s\n\n", h.Host)
			for _, line := range h.NotYes {
				fmt.Fprintf(&b, "- %s\n", line)
			}
		}
	}
	all, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "\n## As JSON\n\n```json\n%s\n```\n", all)
	_, err = io.WriteString(w, b.String())
	return err
}

func cell(text string) string { return strings.TrimSpace(strings.ReplaceAll(text, "|", `\|`)) }
