package sad

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/netns"
	"espalier/ipsec"
	"espalier/test/bench/report"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// status times `espalier status` of ten thousand SAs and as many policies, of a running device and of the kernel.
func (b *bench) status() ([]report.Result, error) {
	ofDevice, err := b.deviceStatus()
	if err != nil {
		return nil, err
	}
	ofKernel, err := b.kernelStatus()
	return append(ofDevice, ofKernel...), err
}

// statusPairs are two SAs and two policies each.
const statusPairs = 5000

func (b *bench) deviceStatus() ([]report.Result, error) {
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
	if err := installPairs(socket, statusPairs); err != nil {
		return nil, err
	}
	return b.timeStatus(ns, "device", "unix:"+socket)
}

// kernelStatus needs no ESP in the kernel: its SAs are larval, of which it tells all but keys.
func (b *bench) kernelStatus() ([]report.Result, error) {
	ns, end, err := host()
	if err != nil {
		return nil, err
	}
	defer end()
	err = ns.Do(func() error {
		// Else larval SAs go after half a minute.
		if err := os.WriteFile("/proc/sys/net/core/xfrm_acq_expires", []byte("3600"), 0); err != nil {
			return err
		}
		return allocatePairs(statusPairs)
	})
	if err != nil {
		return nil, err
	}
	return b.timeStatus(ns, "kernel", "kernel")
}

// timeStatus times a whole program, from its start to its end, beyond the interval that it watches for.
func (b *bench) timeStatus(ns *netns.NS, impl, sad string) (results []report.Result, err error) {
	const interval, mayTake = time.Second, 200
	for _, output := range []string{"text", "json"} {
		var took []float64
		for range max(b.runs, 5) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			cmd := exec.CommandContext(ctx, b.espalier, "status", "--sad", sad, "--interval", interval.String(), "-o", output)
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
			Name: "espalier status -o " + output + ", beyond the interval", Impl: impl, Size: 2 * statusPairs, Unit: "ms", Value: ms,
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
		to, from := policyPair(i, peer)
		err := errors.Join(c.Batch(ctx, []client.Request{
			client.AddState(state(out)), client.AddState(state(in)), client.AddPolicy(to), client.AddPolicy(from),
		})...)
		if err != nil {
			return err
		}
	}
	return nil
}

// policyPair are the policies for the i-th pair, whose other end is peer.
func policyPair(i int, peer netip.Addr) (to, from *xfrm.Policy) {
	to, from = policy(i), policy(i)
	to.Tmpls[0].Dst = peer
	from.Dir, from.Sel.Src, from.Sel.Dst = xfrm.PolicyIn, to.Sel.Dst, to.Sel.Src
	from.Tmpls[0].Src, from.Tmpls[0].Dst = peer, gatewayA
	return to, from
}

// allocatePairs puts larval SAs of both directions into the kernel's SAD of the calling thread's namespace, and
// their policies into its SPD.
func allocatePairs(n int) error {
	c, err := client.Kernel()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	policies := make([]client.Request, 0, 2*n)
	for i := range n {
		peer := inner(12, i)
		for k, ends := range [][2]netip.Addr{{gatewayA, peer}, {peer, gatewayA}} {
			spi := uint32(0x1000 + 2*i + k)
			s := &xfrm.State{Src: ends[0], Dst: ends[1], Proto: unix.IPPROTO_ESP, Reqid: uint32(i + 1), Mode: xfrm.ModeTunnel}
			if _, err := c.AllocateSPI(ctx, &xfrm.SPIRange{State: s, Min: spi, Max: spi}); err != nil {
				return err
			}
		}
		to, from := policyPair(i, peer)
		policies = append(policies, client.AddPolicy(to), client.AddPolicy(from))
	}
	return errors.Join(c.Batch(ctx, policies)...)
}
