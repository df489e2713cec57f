package tunnels

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// stage stands where package lab expects a test: what it would end fails the trial, and what is to be
// done at its end is done at the trial's.
type stage struct {
	testing.TB // nil: what lab uses of it is here

	dir      string
	espalier string // the program
	last     []func()
}

// failure is what ends a trial from within lab.
type failure struct{ error }

// with runs a trial, and takes away what it has left.
func (s *stage) with(trial func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			f, ok := v.(failure)
			if !ok {
				panic(v)
			}
			err = f.error
		}
		for i := len(s.last) - 1; i >= 0; i-- {
			s.last[i]()
		}
	}()
	return trial()
}

func (s *stage) Helper()                 {}
func (s *stage) Failed() bool            { return false }
func (s *stage) Cleanup(f func())        { s.last = append(s.last, f) }
func (s *stage) Fatal(args ...any)       { panic(failure{errors.New(fmt.Sprint(args...))}) }
func (s *stage) Logf(f string, a ...any) { progress(f, a...) }

func (s *stage) Fatalf(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }
func (s *stage) Skipf(format string, args ...any)  { s.Fatalf(format, args...) }

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		s.Fatal(err)
	}
	return dir
}
