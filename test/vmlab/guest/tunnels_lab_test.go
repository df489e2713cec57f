package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/config"
	"espalier/deploy"
	"espalier/deploy/boot"
	"espalier/deploy/host"
	"espalier/deploy/steps"
	"espalier/guard"
	"espalier/remote"
	"espalier/test/lab"
	tunnels "espalier/tunnel"
	"espalier/xfrm"
)

// site is a lab on the NIC whose hosts carry changes of tunnels out, each with a journal, a keeper and a
// clock of its own, and a coordinator on host A that reaches both without ssh.
type site struct {
	*nicLab
	t     *testing.T
	hosts map[*lab.Host]*farHost
	// before, unless nil, is called before a host is asked for a step; it may be called by two at a time.
	before func(operation string, question []byte)
	spared string        // a counter of drops that mustDropNothing leaves out
	phase  *atomic.Value // the last step that was asked for
}

type farHost struct {
	*host.Host
	place   *boot.Place
	clock   *shiftedClock
	state   string
	keepers sync.WaitGroup
}

// shiftedClock is the host's, and can be put on.
type shiftedClock struct{ by atomic.Int64 }

func (c *shiftedClock) Now() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return time.Duration(t.Nano() + c.by.Load())
}

func (c *shiftedClock) BootID() string  { return "this boot" }
func (c *shiftedClock) Wall() time.Time { return time.Now() }
func (c *shiftedClock) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// apart runs f on a thread of its own in the host's network namespace, so that what takes long keeps
// nobody else from it.
func apart(h *lab.Host, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err == nil {
			defer home.Close()
			if err = unix.Setns(h.Fd(), unix.CLONE_NEWNET); err == nil {
				err = f()
				if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
					runtime.UnlockOSThread() // else the thread ends with this goroutine
				}
			}
		}
		done <- err
	}()
	return <-done
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{nicLab: newNICLab(t, "p4p1"), t: t, hosts: map[*lab.Host]*farHost{}, phase: &atomic.Value{}}
	s.phase.Store("")
	ctx, cancel := context.WithCancel(context.Background())
	for _, h := range s.Hosts() {
		f := &farHost{clock: &shiftedClock{}, state: filepath.Join(h.Dir, "state")}
		s.hosts[h] = f
		var dir string
		inside(t, h, func() (err error) {
			dir, err = host.Dir(f.state)
			return err
		})
		f.place = &boot.Place{Dir: dir, Units: filepath.Join(h.Dir, "units"), Program: Espalier}
		f.Host = host.New(host.Config{Dir: dir, Keys: f.state, Boot: f.place, Clock: f.clock, Keeper: func() error {
			f.keepers.Go(func() {
				apart(h, func() error {
					return f.Keep(ctx, func(err error) { fmt.Fprintf(os.Stderr, "keeper of %s: %v\n", h.Name, err) })
				})
			})
			return nil
		}})
		t.Cleanup(func() { // after what is below
			if err := h.Do(f.place.Remove); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		for _, f := range s.hosts {
			f.keepers.Wait()
		}
	})
	return s
}

// operations are the steps that a host serves, and the command that judges its SAs.
func (s *site) operations(h *lab.Host) remote.Operations {
	ops := remote.Operations{}
	for name, op := range s.hosts[h].Operations() {
		ops[name] = func(ctx context.Context, question []byte, say remote.Progress) (answer []byte, err error) {
			phase := name
			for _, part := range []steps.Part{steps.Accepting, steps.Sending, steps.Required} {
				if name == steps.Policies && strings.Contains(string(question), string(part)) {
					phase += " " + string(part)
				}
			}
			s.phase.Store(phase)
			if s.before != nil {
				s.before(phase, question)
			}
			err = apart(h, func() (err error) {
				answer, err = op(ctx, question, say)
				return err
			})
			return answer, err
		}
	}
	ops["status"] = remote.JSON(func(_ context.Context, q remote.CommandQuestion, _ remote.Progress) (remote.CommandAnswer, error) {
		r := h.Command(self, append([]string{"status"}, q.Arguments...)...)
		return remote.CommandAnswer{Code: r.Code, Stdout: []byte(r.Stdout), Stderr: r.Stderr}, nil
	})
	return ops
}

// gather is what deploy.Gather does: A is the host that commands are given on.
func (s *site) gather() ([]deploy.Host, error) {
	var hosts []deploy.Host
	for _, h := range s.Hosts() {
		d := deploy.Host{Dial: func(context.Context) (*remote.Conn, error) { return remote.Local(h.Name, s.operations(h)), nil }}
		d.Name = h.Name
		if h == s.B {
			d.SSH = config.SSH{To: "root@B"}
		}
		d.Conn, _ = d.Dial(context.Background())
		facts, err := remote.Call[tunnels.Facts](context.Background(), d.Conn, steps.Facts, steps.FactsQuestion{}, nil)
		if err != nil {
			return nil, err
		}
		d.Facts = &facts
		hosts = append(hosts, d)
	}
	return hosts, nil
}

const (
	origin     = "A:/tunnels.yaml"
	changeTime = 3 * time.Minute
)

// change carries a change of the tunnels of a file out.
func (s *site) change(kind tunnels.Kind, file string) (*deploy.Report, error) {
	s.t.Helper()
	start := time.Now()
	f, err := config.Parse("tunnels.yaml", []byte(file))
	if err != nil {
		s.t.Fatal(err)
	}
	hosts, err := s.gather()
	if err != nil {
		s.t.Fatal(err)
	}
	defer deploy.Close(hosts)
	plan, err := tunnels.Make(f, deploy.Hosts(hosts), tunnels.Options{Kind: kind, Origin: origin, Here: hosts[0].Facts})
	if err != nil {
		return nil, err
	}
	var told strings.Builder
	var mu sync.Mutex
	report, err := deploy.Run(context.Background(), plan, hosts, deploy.Options{
		Kind: steps.Kind(kind), Coordinator: "A", Origin: origin, Timeout: changeTime, Grace: 100 * time.Millisecond,
		Say: func(host, done string) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(&told, "\n%s: %s", host, done)
		},
	})
	s.t.Logf("%s: %s in %s, error %v%s", kind, report.Result, time.Since(start).Round(time.Millisecond), err, told.String())
	s.phase.Store("after " + string(kind))
	return report, err
}

// must is change that has to come to a result.
func (s *site) must(kind tunnels.Kind, file string, want deploy.Result) *deploy.Report {
	s.t.Helper()
	r, err := s.change(kind, file)
	if err != nil || r.Result != want {
		s.t.Fatalf("%s: %v, %v; want %s", kind, r, err, want)
	}
	for _, h := range r.Hosts {
		if h.Problem != "" {
			s.t.Errorf("%s on %s: %s", kind, h.Name, h.Problem)
		}
	}
	return r
}

// sas are those of a host's kernel.
func (s *site) sas(h *lab.Host) []*xfrm.State {
	s.t.Helper()
	return s.nicLab.sas(s.t, h)
}

func (s *site) policies(h *lab.Host) (list []string) {
	s.t.Helper()
	for p, err := range s.kernel[h].Policies(context.Background()) {
		if err != nil {
			s.t.Fatal(err)
		}
		if p.Dir <= xfrm.PolicyFwd { // others are of a socket
			list = append(list, p.ID().String())
		}
	}
	return list
}

// mustDropNothing fails where a kernel or a guard has dropped anything since the site is there.
func (s *site) mustDropNothing(when string) {
	s.t.Helper()
	for _, h := range s.Hosts() {
		drops := s.drops(s.t, h)
		delete(drops, s.spared)
		if len(drops) > 0 {
			s.t.Errorf("%s: host %s has dropped %v", when, h.Name, drops)
		}
		if c := guardCounters(s.t, h); c != (guard.Counters{}) {
			s.t.Errorf("%s: the guard of host %s has dropped %+v", when, h.Name, c)
		}
	}
}

// mustBeBare fails where anything is left of a tunnel. What lingers has its time: clocks are put on.
func (s *site) mustBeBare(when string) {
	s.t.Helper()
	var left []string
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		left = nil
		for _, h := range s.Hosts() {
			for _, sa := range s.sas(h) {
				left = append(left, h.Name+": SA "+sa.ID().String())
			}
			for _, p := range s.policies(h) {
				left = append(left, h.Name+": policy "+p)
			}
			inside(s.t, h, func() error {
				_, loaded, err := guard.HostCounters()
				if loaded {
					left = append(left, h.Name+": table inet espalier")
				}
				return err
			})
			for _, dir := range []string{s.hosts[h].place.Dir, s.hosts[h].place.Units} {
				filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
					if errors.Is(err, fs.ErrNotExist) || d != nil && d.IsDir() {
						return nil
					}
					left = append(left, h.Name+": file "+path)
					return err
				})
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Since(start) > 30*time.Second {
			break
		}
		s.pass(changeTime / 2)
	}
	s.t.Errorf("%s there is left:\n%s", when, strings.Join(left, "\n"))
}

// pass puts the hosts' clocks on.
func (s *site) pass(by time.Duration) {
	for _, f := range s.hosts {
		f.clock.by.Add(int64(by))
	}
}
