package sad

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
	"espalier/internal/netns"
	"espalier/ipsec"
	"espalier/test/bench/report"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

const underlay = "p4p1"

// device measures the userspace device: how fast it takes the first and the last SAs and
// policies, what they cost a packet, and memory.
func (b *bench) device() ([]report.Result, error) {
	n, step := 100_000, 1000
	if b.quick {
		n = 10_000
	}
	var adds []report.Result
	for _, kind := range kinds {
		r, err := b.deviceAdds(n, step, kind)
		if err != nil {
			return nil, fmt.Errorf("device: %s: %w", kind.name, err)
		}
		adds = append(adds, r)
	}
	lookups, err := b.lookups(n)
	if err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	return append(adds, lookups...), nil
}

// host makes a namespace with an underlay device, whose cable ends in another.
func host() (ns *netns.NS, end func(), err error) {
	far, err := netns.New()
	if err != nil {
		return nil, nil, err
	}
	if ns, err = netns.New(); err != nil {
		return nil, nil, errors.Join(err, far.Close())
	}
	end = func() {
		ns.Close()
		far.Close()
	}
	err = netns.Cable(
		netns.End{NS: ns, Name: underlay, Addresses: []netip.Prefix{netip.PrefixFrom(gatewayA, 24)}},
		netns.End{NS: far, Name: underlay, Addresses: []netip.Prefix{netip.PrefixFrom(gatewayB, 24)}},
	)
	if err != nil {
		end()
		return nil, nil, err
	}
	return ns, end, nil
}

// kind is a kind of SAs with policies.
type kind struct {
	name  string
	shape func(n int, sa *ipsec.SA, p *xfrm.Policy) // makes the n-th SA and policy so
}

var kinds = []kind{
	{"SAs with policies added", func(int, *ipsec.SA, *xfrm.Policy) {}},
	{"SAs with policies with ports added", func(n int, _ *ipsec.SA, p *xfrm.Policy) {
		p.Sel.Protocol, p.Sel.DstPort = unix.IPPROTO_TCP, ipsec.Port(uint16(n))
	}},
	{"SAs with UDP encapsulation and policies added", func(n int, sa *ipsec.SA, p *xfrm.Policy) {
		sa.Dst = inner(12, n)
		sa.Encap = &ipsec.Encap{SrcPort: 4500, DstPort: 4500}
		p.Tmpls[0].Dst = sa.Dst
	}},
}

// deviceAdds fills a running device over its socket, in steps that are timed.
func (b *bench) deviceAdds(n, step int, kind kind) (report.Result, error) {
	ns, end, err := host()
	if err != nil {
		return report.Result{}, err
	}
	defer end()
	socket := filepath.Join(b.dir, "run", underlay+".sock")
	stop, err := b.start(ns, socket)
	if err != nil {
		return report.Result{}, err
	}
	defer stop()
	c, err := client.Dial(socket)
	if err != nil {
		return report.Result{}, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var rates []float64
	for from := 0; from < n; from += step {
		requests := make([]client.Request, 0, 2*step)
		var policies []client.Request
		for i := from; i < from+step; i++ {
			sa, p := sa(i), policy(i)
			kind.shape(i, sa, p)
			requests = append(requests, client.AddState(state(sa)))
			policies = append(policies, client.AddPolicy(p))
		}
		requests = append(requests, policies...)
		start := time.Now()
		if err := errors.Join(c.Batch(ctx, requests)...); err != nil {
			return report.Result{}, err
		}
		rates = append(rates, perSecond(step, time.Since(start)))
	}
	// A step alone is too short to be told from the weather: five and five.
	const some = 5
	var p pairs
	p.add(report.Median(rates[len(rates)-some:]), report.Median(rates[:some]))
	name := fmt.Sprintf("%s, the last %d", kind.name, step)
	return p.result(name, "device", fmt.Sprintf("the first %d", step), "k/s", n, 1/1.2), nil
}

// start runs a device in the namespace.
func (b *bench) start(ns *netns.NS, socket string) (stop func(), err error) {
	cmd := exec.Command(b.espalier, "dataplane", "--dev", underlay, "--listen", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "ESPALIER_STATE_DIR="+filepath.Join(b.dir, "state"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := ns.Start(cmd); err != nil {
		return nil, err
	}
	stop = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	late := time.AfterFunc(patience, stop)
	defer late.Stop()
	if !bufio.NewScanner(out).Scan() {
		stop()
		return nil, errors.New("espalier dataplane did not start")
	}
	return stop, nil
}

// state is an SA as the socket takes it.
func state(sa *ipsec.SA) *xfrm.State {
	s, err := xfrm.StateFromEngine(sa)
	if err != nil {
		panic(err) // there is nothing of the outside in it
	}
	return s
}

// sa is the SA for the n-th policy.
func sa(n int) *ipsec.SA {
	key := make([]byte, 20)
	key[0], key[1], key[2], key[3] = 1, byte(n>>16), byte(n>>8), byte(n)
	return &ipsec.SA{
		Src: gatewayA, Dst: gatewayB, SPI: ipsec.SPI(n + 0x1000), Mode: ipsec.Tunnel, Direction: ipsec.Outbound,
		RequestID: uint32(n + 1), Key: ipsec.NewKey(key), ICVBits: 128,
	}
}

// flow is a packet that the n-th policy protects.
func flow(n int) ipsec.Flow {
	return ipsec.Flow{Src: inner(10, n), Dst: inner(11, n), Protocol: 6, SrcPort: 1000, DstPort: 443}
}

// lookups times what finds the SA for a packet, in two devices that carry none: with ten SAs and
// with many, for packets of one flow and of all flows evenly.
func (b *bench) lookups(n int) ([]report.Result, error) {
	const few = 10
	small, closeSmall, err := b.idle()
	if err != nil {
		return nil, err
	}
	defer closeSmall()
	large, closeLarge, err := b.idle()
	if err != nil {
		return nil, err
	}
	defer closeLarge()
	if err := errors.Join(addSAs(small, few), addPolicies(small, few)); err != nil {
		return nil, err
	}
	before := heap()
	if err := addSAs(large, n); err != nil {
		return nil, err
	}
	memory := float64(heap()-before) / float64(n)
	if err := addPolicies(large, n); err != nil {
		return nil, err
	}
	runtime.GC()
	var hot, even pairs
	for range b.runs {
		hot.add(1e3/lookupTime(large, n, 1), 1e3/lookupTime(small, few, 1))
		even.add(1e3/lookupTime(large, n, n), 1e3/lookupTime(small, few, few))
	}
	const mayTake = 2048
	peer := fmt.Sprintf("%d SAs", few)
	return []report.Result{
		hot.result("SA found for a packet, one hot SA", "device", peer, "M/s", n, 1/1.2),
		even.result("SA found for a packet, uniform traffic", "device", peer, "M/s", n, 1/2.5),
		{
			Name: "memory of an SA", Impl: "device", Size: n, Unit: "bytes", Value: memory,
			Peer: "2 KiB", PeerValue: mayTake, Ratio: mayTake / memory, Target: 1, Met: memory <= mayTake,
		},
	}, nil
}

// idle is a device that is never run.
func (b *bench) idle() (d *dataplane.Device, end func(), err error) {
	ns, endHost, err := host()
	if err != nil {
		return nil, nil, err
	}
	err = ns.Do(func() (err error) {
		d, err = dataplane.New(dataplane.Config{Underlay: underlay, StateDir: b.dir, Log: slog.New(slog.DiscardHandler)})
		return err
	})
	if err != nil {
		endHost()
		return nil, nil, err
	}
	return d, func() {
		ns.Do(d.Close)
		endHost()
	}, nil
}

func addSAs(d *dataplane.Device, n int) error {
	for i := range n {
		if err := d.AddSA(context.Background(), *sa(i)); err != nil {
			return err
		}
	}
	return nil
}

func addPolicies(d *dataplane.Device, n int) error {
	for i := range n {
		p, err := policy(i).EnginePolicy()
		if err == nil {
			err = d.AddPolicy(context.Background(), p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lookupTime is the nanoseconds of CPU time of a look-up, of so many flows evenly, in a device with
// n SAs.
func lookupTime(d *dataplane.Device, n, flows int) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const times = 1 << 19
	f := make([]ipsec.Flow, 1<<10) // few, to leave the caches to the device
	var took time.Duration
	for done := 0; done < times; done += len(f) {
		for i := range f {
			f[i] = flow(n - 1 - rand.IntN(flows))
		}
		start := cpuTime()
		for i := range f {
			if _, ok := d.OutboundSA(&f[i]); !ok {
				panic("a flow without an SA")
			}
		}
		took += cpuTime() - start
	}
	return float64(took.Nanoseconds()) / times
}

// cpuTime is what the calling thread has used: others may use the machine.
func cpuTime() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // there is no kernel without
	return time.Duration(t.Nano())
}

// heap is how many bytes live on the heap.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
