package sad

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/test/bench/report"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// status times `espalier status` of a running device with ten thousand SAs and as many policies, beyond the
// interval that it watches for: a whole program, from its start to its end.
func (b *bench) status() ([]report.Result, error) {
	const pairs, interval, mayTake = 5000, time.Second, 200
	ns, end, err := host()
	if err != nil {
		return nil, err
	}
	defer end()
	socket := filepath.Join(b.dir, "status", underlay+".sock")
	stop, err := b.start(ns, socket)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := installPairs(socket, pairs); err != nil {
		return nil, err
	}
	var results []report.Result
	for _, output := range []string{"text", "json"} {
		var took []float64
		for range max(b.runs, 5) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			cmd := exec.CommandContext(ctx, b.espalier, "status", "--sad", "unix:"+socket, "--interval", interval.String(), "-o", output)
			cmd.Stdout = io.Discard
			start := time.Now()
			err := ns.Start(cmd)
			if err == nil {
				err = cmd.Wait()
			}
			cancel()
			if err != nil {
				return nil, fmt.Errorf("espalier status: %w", err)
			}
			took = append(took, float64((time.Since(start) - interval).Milliseconds()))
		}
		ms := report.Median(took)
		results = append(results, report.Result{
			Name: "espalier status -o " + output + ", beyond the interval", Impl: "device", Size: 2 * pairs, Unit: "ms", Value: ms,
			Peer: fmt.Sprintf("%d ms", mayTake), PeerValue: mayTake, Ratio: mayTake / ms, Target: 1, Met: ms <= mayTake,
		})
	}
	return results, nil
}

// installPairs gives a device SAs for sending and receiving, each with its policy.
func installPairs(socket string, n int) error {
	c, err := client.Dial(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i := range n {
		peer := inner(12, i)
		out, in := sa(i), sa(n+i) // no two with one key
		out.Dst = peer
		in.Src, in.Dst, in.Direction, in.RequestID, in.Window = peer, gatewayA, ipsec.Inbound, out.RequestID, 64
		to, from := policy(i), policy(i)
		to.Tmpls[0].Dst = peer
		from.Dir, from.Sel.Src, from.Sel.Dst = xfrm.PolicyIn, to.Sel.Dst, to.Sel.Src
		from.Tmpls[0].Src, from.Tmpls[0].Dst, from.Tmpls[0].Family = peer, gatewayA, unix.AF_INET
		err := errors.Join(c.Batch(ctx, []client.Request{
			client.AddState(state(out)), client.AddState(state(in)), client.AddPolicy(to), client.AddPolicy(from),
		})...)
		if err != nil {
			return err
		}
	}
	return nil
}
