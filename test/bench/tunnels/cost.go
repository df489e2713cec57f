package tunnels

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"espalier/test/bench/report"
)

// cost is what a command has taken.
type cost struct {
	seconds float64
	cpu     float64 // in seconds, with that of the programs it has run
}

// parts are also what the command has taken elsewhere: seconds of a CPU.
type parts struct {
	cost
	far, devices float64
}

func (p parts) total() float64 { return p.cpu + p.far + p.devices }

func (p parts) String() string {
	return fmt.Sprintf("%.2f s; CPU: %.2f s here with ssh, %.2f s by sshd and below, %.2f s by devices", p.seconds, p.cpu, p.far, p.devices)
}

// measure runs a program on the host from which commands are given.
func (s *site) measure(ctx context.Context, name string, args ...string) (c cost, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := s.from.Command(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begun := time.Now()
	if err = s.from.Start(cmd); err == nil {
		err = cmd.Wait()
	}
	c.seconds = time.Since(begun).Seconds()
	if err != nil {
		return c, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	c.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return c, nil
}

const (
	handshakes = "ssh HOST true, twice to each"
	apply      = "apply"
	again      = "apply again, nothing changes"
	rotate     = "rotate all"
	down       = "down"
)

// limit is how long apply may take, in seconds, of 50 hosts.
const limit = 10

func manyResults(n int, all map[string][]parts) (results []report.Result) {
	of := func(name string) (seconds, cpu float64, p parts) {
		var s, c []float64
		for _, p := range all[name] {
			s, c = append(s, p.seconds), append(c, p.total())
		}
		seconds, cpu = report.Median(s), report.Median(c)
		for _, one := range all[name] {
			if one.total() == cpu {
				p = one
			}
		}
		return seconds, cpu, p
	}
	impl := fmt.Sprintf("%d hosts", n)
	floor, floorCPU, _ := of(handshakes)
	for _, name := range []string{apply, again, rotate, down} {
		seconds, cpu, p := of(name)
		r := report.Result{Name: name, Impl: impl, Unit: "s", Value: seconds, Peer: handshakes, PeerValue: floor, Ratio: floor / seconds, Met: true}
		if name == apply {
			r.Peer, r.PeerValue, r.Ratio, r.Target = "limit", limit, limit/seconds, 1
			r.Met = seconds <= limit
		}
		results = append(results, r, report.Result{
			Name: name + ", CPU", Impl: impl, Unit: "s", Value: cpu, Peer: handshakes, PeerValue: floorCPU, Ratio: floorCPU / cpu, Met: true,
			Note: fmt.Sprintf("%.1f here with ssh, %.1f by sshd and below, %.1f by devices", p.cpu, p.far, p.devices),
		})
	}
	return results
}
