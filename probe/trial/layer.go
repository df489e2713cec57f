package trial

import (
	"fmt"
	"slices"
	"strings"

	"espalier/probe"
)

// LayerName is that of Result.Layer.
const LayerName = "trial"

// question is something that a device offloads or not: it does if there is one kind of SA among
// those named that it offloads for sending and for receiving.
type question struct {
	id, title string
	weight    probe.Weight
	among     func(Case) bool
	lack      string // what a No costs
}

// common are the SAs that people have, and every NIC that offloads takes one of.
func common(c Case) bool { return c.Offload == Crypto && c.KeyBits != 192 && c.Mode == Transport }

// decides is the question for crypto offload.
var decides = question{"trial.crypto", "crypto offload out and in", probe.Required, common, ""}

// details are asked for if that is a Yes.
var details = []question{
	{"trial.esn", "with ESN", probe.Warns, func(c Case) bool { return common(c) && c.ESN }, "without ESN an SA ends after 2^32 packets: rekey before"},
	{"trial.ipv4", "over IPv4", probe.Warns, func(c Case) bool { return common(c) && c.Family == IPv4 }, ""},
	{"trial.ipv6", "over IPv6", probe.Warns, func(c Case) bool { return common(c) && c.Family == IPv6 }, ""},
	{"trial.tunnel", "in tunnel mode", probe.Warns, func(c Case) bool { return c.Offload == Crypto && c.KeyBits != 192 && c.Mode == Tunnel }, ""},
	{"trial.packet", "packet offload", probe.Informs, func(c Case) bool { return c.Offload == Packet && c.KeyBits != 192 }, ""},
}

// Layer is what the trial says of the device, for the doctor's report.
func (r *Result) Layer() probe.Layer {
	first := r.check(decides)
	l := probe.Layer{Name: LayerName, Summary: r.summary(), Checks: []probe.Check{first}}
	if first.Answer == probe.Yes {
		for _, q := range details {
			l.Checks = append(l.Checks, r.check(q))
		}
	}
	return l
}

// Failed is the layer of a trial that could not be made.
func Failed(err error) probe.Layer {
	c := decides.unanswered()
	c.Why = fmt.Sprintf("not found out: %v", err)
	return probe.Layer{Name: LayerName, Checks: []probe.Check{c}}
}

func (q question) unanswered() probe.Check {
	return probe.Check{ID: q.id, Title: q.title, Weight: q.weight, Tried: true}
}

// simulated are drivers that take SAs and encrypt nothing.
var simulated = []string{"netdevsim"}

func (r *Result) check(q question) probe.Check {
	c := q.unanswered()
	out, in := r.pair(q)
	if out == nil {
		c.Why = r.why(q)
		return c
	}
	c.Evidence = evidence(out, in)
	switch bad := worse(out, in); {
	case bad.Outcome == Offloaded && slices.Contains(simulated, r.Driver):
		c.Why = r.Driver + " takes SAs for offload, but it is a simulation and encrypts nothing"
	case bad.Outcome == Offloaded:
		c.Answer, c.Why = probe.Yes, "added, and read back as offloaded"
	default:
		c.Answer, c.Why = probe.No, bad.reason()
		if q.lack != "" {
			c.Why += "; " + q.lack
		}
		c.Fix = fix(bad)
	}
	return c
}

// why nothing can be said.
func (r *Result) why(q question) string {
	for _, t := range r.only(q.among, Untried) {
		if t.Message != "" {
			return t.Message
		}
	}
	return "the trial was cut short"
}

// pair is one of the kinds of SA a question is about, sent and received by: the one that came off
// best, of equals the first. nil if none was tried both ways.
func (r *Result) pair(q question) (out, in *Tried) {
	for i := range r.Cases {
		a := &r.Cases[i]
		if a.Dir != Out || a.Outcome == Untried || !q.among(a.Case) {
			continue
		}
		b := r.reverse(a.Case)
		if b == nil || b.Outcome == Untried {
			continue
		}
		if out == nil || rank(worse(a, b)) < rank(worse(out, in)) {
			out, in = a, b
		}
	}
	return out, in
}

// reverse is the receiving case of the same kind.
func (r *Result) reverse(c Case) *Tried {
	c.Dir, c.Window = In, usualWindow
	for i := range r.Cases {
		if r.Cases[i].Case == c {
			return &r.Cases[i]
		}
	}
	return nil
}

// rank orders outcomes, the best first.
func rank(t *Tried) int {
	return slices.Index([]Outcome{Offloaded, Otherwise, Software, Refused}, t.Outcome)
}

func worse(a, b *Tried) *Tried {
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// reason for a No, for the line of the verdict.
func (t *Tried) reason() string {
	switch t.Outcome {
	case Software:
		return "SAs are accepted, and left to software"
	case Otherwise:
		return "SAs are offloaded otherwise than asked: " + t.Message
	}
	return "SAs are refused: " + t.words()
}

// evidence is what came of both, on one line if it is the same: the reason has the words then.
func evidence(out, in *Tried) []probe.Evidence {
	kind := fmt.Sprintf("AES-%d, %s, ESN %s, IP%s", out.KeyBits, out.Mode, onOff(out.ESN), families.of(out.Case))
	if out.answer() == in.answer() {
		return []probe.Evidence{{Source: "SAs out and in, " + kind, Value: string(out.Outcome)}}
	}
	return []probe.Evidence{{Source: "SA out, " + kind, Value: out.answer()}, {Source: "SA in, " + kind, Value: in.answer()}}
}

// answer is the outcome, with what was said of it.
func (t *Tried) answer() string {
	if words := t.words(); words != "" {
		return string(t.Outcome) + ": " + words
	}
	return string(t.Outcome)
}

// fixes of refusals that have nothing to do with the NIC, by what the kernel says.
var fixes = []struct{ words, fix string }{
	{"Type doesn't support offload", "Load the modules esp4_offload and esp6_offload (CONFIG_INET_ESP_OFFLOAD, CONFIG_INET6_ESP_OFFLOAD)."},
	{"Requested type not found", "Load the modules esp4 and esp6 (CONFIG_INET_ESP, CONFIG_INET6_ESP)."},
	{"Requested AEAD algorithm not found", "Load the modules gcm and seqiv (CONFIG_CRYPTO_GCM, CONFIG_CRYPTO_SEQIV)."},
	{"ENOSPC", "The NIC's table of SAs is full: delete those that are no longer used (espalier xfrm state list)."},
}

func fix(t *Tried) string {
	for _, f := range fixes {
		if strings.Contains(t.words(), f.words) {
			return f.fix
		}
	}
	return ""
}
