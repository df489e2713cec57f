package trial

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// left are the files in a state directory.
func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

// What is asked for is harmless: one SA at a time, with a key of its own, a lifetime, no policy's
// reqid, between addresses of documentation; and nothing is left.
func TestRunIsHarmless(t *testing.T) {
	foreign := &xfrm.State{SPI: 0xe1234567, Proto: unix.IPPROTO_ESP, Reqid: 7,
		Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("198.51.100.1")}
	s := newSAD(offloadsAll, foreign)
	o := options(t)
	s.before = func(_ context.Context, op string, id xfrm.StateID) error {
		if id.SPI == foreign.SPI {
			t.Errorf("%s of somebody else's SA", op)
		}
		text, err := os.ReadFile(filepath.Join(o.StateDir, journalFile))
		if err != nil || !bytes.Contains(text, []byte(id.Dst.String())) {
			t.Fatalf("%s without a journal: %v", op, err)
		}
		return nil
	}
	r := mustRun(t, s, o)
	if len(r.Cases) != len(Plan()) || len(r.only(nil, Offloaded)) != len(r.Cases) {
		t.Errorf("%s", r.summary())
	}
	if s.most != 2 || len(s.states) != 1 {
		t.Errorf("up to %d SAs at a time, at the end %d; want 2 and 1 with the foreign one", s.most, len(s.states))
	}
	documentation := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	keys := make(map[string]bool)
	for _, x := range s.adds {
		for _, a := range []netip.Addr{x.Src, x.Dst} {
			if !slices.ContainsFunc(documentation, func(p netip.Prefix) bool { return p.Contains(a) }) {
				t.Errorf("address %s", a)
			}
		}
		if x.Limits.HardAdd != 10 || x.Reqid == 0 || x.Reqid == foreign.Reqid || x.SPI == foreign.SPI || x.SPI < 256 {
			t.Errorf("%+v", x)
		}
		keys[string(x.AEAD.Key.ExposeSecretBytes())] = true
	}
	if len(keys) != len(s.adds) || len(s.adds) != len(Plan()) {
		t.Errorf("%d keys for %d SAs", len(keys), len(s.adds))
	}
	if got := left(t, o.StateDir); !slices.Equal(got, []string{lockFile}) {
		t.Errorf("left in the state directory: %q", got)
	}
}

// SPIs of SAs that are there are not chosen, wherever those go.
func TestPrepare(t *testing.T) {
	foreign := &xfrm.State{SPI: 0xe7654321, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Reqid: 7}
	tr := trial{Options: options(t), engine: newSAD(offloadsAll, foreign)}
	if err := tr.prepare(t.Context(), Plan()); err != nil {
		t.Fatal(err)
	}
	seen := map[ipsec.SPI]bool{foreign.SPI: true}
	for _, s := range tr.journal.SAs {
		if seen[s.SPI] {
			t.Errorf("%s is chosen twice, or was there", s.SPI)
		}
		seen[s.SPI] = true
	}
	if !tr.used[foreign.SPI] || len(tr.used) != len(Plan())+1 || tr.journal.Reqid == 0 {
		t.Errorf("%d SPIs are taken, reqid %d", len(tr.used), tr.journal.Reqid)
	}
}

// The journal holds no key, and is for its owner alone.
func TestJournalHoldsNoKey(t *testing.T) {
	o := options(t)
	s := newSAD(offloadsAll)
	var text []byte
	s.before = func(context.Context, string, xfrm.StateID) (err error) {
		text, err = os.ReadFile(filepath.Join(o.StateDir, journalFile))
		if info, _ := os.Stat(filepath.Join(o.StateDir, journalFile)); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		return err
	}
	mustRun(t, s, o)
	for _, x := range s.adds {
		if bytes.Contains(text, x.AEAD.Key.ExposeSecretBytes()[:4]) {
			t.Fatal("the journal holds a key")
		}
	}
	if strings.Contains(string(text), "key") || !strings.Contains(string(text), "198.51.100.1") {
		t.Errorf("%s", text)
	}
}

// A run that was killed is cleaned up by the next: what the journal has, and nothing that only
// looks like it.
func TestCleanUp(t *testing.T) {
	o := options(t)
	killed := newSAD(offloadsAll)
	n := 0
	killed.before = func(_ context.Context, op string, _ xfrm.StateID) error {
		if op == "get" {
			n++
		}
		if n >= 20 {
			return errBoom // nothing is done any more, as after a SIGKILL
		}
		return nil
	}
	if _, err := Run(t.Context(), killed, o); !errors.Is(err, errBoom) {
		t.Fatal(err)
	}
	if len(killed.states) != 1 {
		t.Fatalf("%d SAs were left, want 1", len(killed.states))
	}
	ours := killed.adds[len(killed.adds)-1]

	// The same name, and not the trial's: by its source, or by its reqid.
	theirs := func(change func(*xfrm.State)) *xfrm.State {
		x := *killed.adds[1]
		change(&x)
		return &x
	}
	for _, foreign := range []*xfrm.State{
		theirs(func(x *xfrm.State) { x.Reqid++ }),
		theirs(func(x *xfrm.State) { x.Src = x.Src.Next() }),
		theirs(func(x *xfrm.State) { x.SPI++ }),
		theirs(func(x *xfrm.State) { x.Dst = x.Dst.Next() }),
	} {
		s := newSAD(offloadsAll, ours, foreign)
		r := mustRun(t, s, copyDir(t, o))
		if r.CleanedUp != 1 || !slices.Equal(s.names(), []name{nameOf(foreign.ID())}) {
			t.Errorf("%s: %d cleaned up, left: %v", foreign.ID(), r.CleanedUp, s.names())
		}
	}

	// In another network namespace the same SA is somebody else's.
	s := newSAD(offloadsAll, ours)
	elsewhere := copyDir(t, o)
	elsewhere.Scope = "another"
	if r := mustRun(t, s, elsewhere); r.CleanedUp != 0 || len(s.states) != 1 {
		t.Errorf("%d cleaned up in another namespace", r.CleanedUp)
	}
}

// copyDir has the options use a copy of their state directory.
func copyDir(t *testing.T, o Options) Options {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(o.StateDir)); err != nil {
		t.Fatal(err)
	}
	o.StateDir = dir
	return o
}

// An SPI that somebody takes meanwhile is left to them, and another one recorded before it is used.
func TestSPITaken(t *testing.T) {
	o := options(t)
	s := newSAD(offloadsAll)
	var taken xfrm.StateID
	s.before = func(_ context.Context, op string, id xfrm.StateID) error {
		if op == "add" && taken.SPI == 0 {
			taken = id
			s.states[nameOf(id)] = &xfrm.State{SPI: id.SPI, Src: id.Src, Dst: id.Dst, Proto: id.Proto, Reqid: 5}
		}
		j, err := readJournal(o.StateDir)
		if err != nil || !slices.ContainsFunc(j.SAs, func(x sa) bool { return x.SPI == id.SPI && x.Dst == id.Dst }) {
			t.Fatalf("%s of %s, which is not recorded (%v)", op, id, err)
		}
		return nil
	}
	r := mustRun(t, s, o)
	if len(r.only(nil, Offloaded)) != len(r.Cases) {
		t.Errorf("%s", r.summary())
	}
	if got := s.names(); !slices.Equal(got, []name{nameOf(taken)}) {
		t.Errorf("left: %v", got)
	}
}

// Ctrl-C: the SA that is there is deleted, and what was not tried says so.
func TestInterrupted(t *testing.T) {
	for _, at := range []string{"add", "get", "delete"} {
		t.Run(at, func(t *testing.T) {
			o := options(t)
			s := newSAD(offloadsAll)
			ctx, cancel := context.WithCancelCause(t.Context())
			n := 0
			s.before = func(_ context.Context, op string, _ xfrm.StateID) error {
				if op != at {
					return nil
				}
				if n++; n == 5 {
					cancel(errBoom)
				}
				return nil
			}
			e := Engine(s)
			if at == "add" {
				e = unheard{s, ctx}
			}
			r, err := Run(ctx, e, o)
			if !errors.Is(err, errBoom) || len(s.states) != 0 {
				t.Errorf("%v; %d SAs are left", err, len(s.states))
			}
			if done := len(r.only(nil, Offloaded)); done < 2 || done > 5 || len(r.Cases) != len(Plan()) {
				t.Errorf("%s", r.summary())
			}
			if got := left(t, o.StateDir); !slices.Equal(got, []string{lockFile}) {
				t.Errorf("left in the state directory: %q", got)
			}
		})
	}
}

// unheard carries out what is asked for after the context has ended, and does not say so.
type unheard struct {
	*sad
	ctx context.Context
}

func (u unheard) AddState(ctx context.Context, x *xfrm.State) error {
	err := u.sad.AddState(context.WithoutCancel(ctx), x)
	if cause := context.Cause(u.ctx); cause != nil {
		return &ipsec.OpError{Op: "add SA", Err: cause}
	}
	return err
}

// An SA that cannot be deleted is told, and stays recorded for the next run.
func TestLeftover(t *testing.T) {
	o := options(t)
	s := newSAD(offloadsAll)
	s.before = func(_ context.Context, op string, _ xfrm.StateID) error {
		if op == "delete" {
			return refusal(unix.EBUSY, "")
		}
		return nil
	}
	r, err := Run(t.Context(), s, o)
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "198.51.100.1") || !strings.Contains(err.Error(), "10s") {
		t.Errorf("%v", err)
	}
	if len(s.adds) != 1 || len(r.only(nil, Untried)) != len(Plan())-1 {
		t.Errorf("%d SAs were added: %s", len(s.adds), r.summary())
	}
	s.before = nil
	if r := mustRun(t, s, o); r.CleanedUp != 1 || len(s.states) != 0 {
		t.Errorf("%d cleaned up, %d left", r.CleanedUp, len(s.states))
	}
}

// Two trials do not run at once.
func TestBusy(t *testing.T) {
	o := options(t)
	s := newSAD(offloadsAll)
	tried := false
	s.before = func(context.Context, string, xfrm.StateID) error {
		if !tried {
			tried = true
			if _, err := Run(t.Context(), newSAD(offloadsAll), o); !errors.Is(err, ErrBusy) {
				t.Errorf("a second trial at the same time: %v", err)
			}
		}
		return nil
	}
	mustRun(t, s, o)
	if !tried {
		t.Error("no second trial was made")
	}
}

// Without the right to add SAs nothing is said of the NIC.
func TestNotAllowed(t *testing.T) {
	s := newSAD(func(*xfrm.State) error { return refusal(unix.EPERM, "") })
	r, err := Run(t.Context(), s, options(t))
	if !errors.Is(err, unix.EPERM) || len(s.adds) != 1 || len(r.only(nil, Untried)) != len(Plan()) {
		t.Errorf("%v; %s", err, r.summary())
	}
	if c := r.Layer().Checks[0]; c.Answer.String() != "unknown" {
		t.Errorf("%+v", c)
	}
}

// What is no journal is not taken for one, and not thrown away.
func TestBadJournal(t *testing.T) {
	o := options(t)
	file := filepath.Join(o.StateDir, journalFile)
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSAD(offloadsAll)
	if _, err := Run(t.Context(), s, o); err == nil || !strings.Contains(err.Error(), file) || len(s.adds) != 0 {
		t.Errorf("%v, %d SAs", err, len(s.adds))
	}
}
