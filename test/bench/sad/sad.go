// Package sad measures how SAs and policies get into an engine and out again, and what their
// number costs a packet.
//
// In the kernel the peer is ip of iproute2, in a network namespace of its own: batches, and lists
// as text; and, for what a dump can be at best, a loop that only receives it. In the userspace
// device the peer is the device itself with little in it. Contestants take turns, and of the
// runs' ratios, as of their values, the median counts.
package sad

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"espalier/internal/netns"
	"espalier/test/bench/report"
)

// bench is what the measurements share.
type bench struct {
	runs     int
	quick    bool
	dir      string
	espalier string // the program
	ip       string // the peer's name with its version
	ns       *netns.NS
}

// Run measures the kernel and the userspace device.
func Run(o report.Options) ([]report.Result, error) {
	b := &bench{runs: o.Runs, quick: o.Quick}
	if o.Quick {
		b.runs = min(o.Runs, 2)
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "espalier-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(b.dir)
	if err := b.findPrograms(); err != nil {
		return nil, err
	}
	if b.ns, err = netns.New(); err != nil {
		return nil, err
	}
	defer b.ns.Close()
	var results []report.Result
	for _, part := range []func() ([]report.Result, error){b.batches, b.dumps, b.device, b.status} {
		some, err := part()
		if err != nil {
			return nil, err
		}
		results = append(results, some...)
		runtime.GC()
	}
	return results, nil
}

func (b *bench) findPrograms() error {
	version, err := exec.Command("ip", "-V").Output()
	if err != nil {
		return fmt.Errorf("ip is the peer: install iproute2: %w", err)
	}
	for _, word := range strings.Fields(string(version)) {
		if name, number, ok := strings.Cut(strings.Trim(word, ","), "-"); ok && name == "iproute2" {
			b.ip = "ip " + number
		}
	}
	b.espalier = filepath.Join(b.dir, "espalier")
	build := exec.Command("go", "build", "-o", b.espalier, "espalier/cmd/espalier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build espalier: %w\n%s", err, out)
	}
	return nil
}

// pairs are the values of two contestants, run by run.
type pairs struct{ own, peer []float64 }

func (p *pairs) add(own, peer float64) {
	p.own, p.peer = append(p.own, own), append(p.peer, peer)
}

// result compares rates, where more is better: the ratio is the median of the runs' ratios.
func (p *pairs) result(name, impl, peer, unit string, size int, target float64) report.Result {
	ratios := make([]float64, len(p.own))
	for i := range ratios {
		ratios[i] = p.own[i] / p.peer[i]
	}
	ratio := report.Median(ratios)
	return report.Result{
		Name: name, Impl: impl, Size: size, Unit: unit, Value: report.Median(p.own),
		Peer: peer, PeerValue: report.Median(p.peer), Ratio: ratio, Target: target, Met: ratio >= target,
	}
}
