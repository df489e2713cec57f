package dataplane

import (
	"testing"
	"testing/synctest"
	"time"
)

// Packets that come soon after one another keep a worker looking; a longer silence does not.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p patience
		looks := func() (n int) {
			for p.lasts() {
				n++
				time.Sleep(time.Microsecond)
			}
			return n
		}
		p.found()
		if n := looks(); n != 0 {
			t.Errorf("looked %d times before anything was known", n)
		}
		time.Sleep(looking)
		p.found()
		if n := looks(); n != int(looking/time.Microsecond) {
			t.Errorf("looked %d times after a short sleep", n)
		}
		time.Sleep(looking / 2)
		p.found()
		if n := looks(); n == 0 {
			t.Error("did not look after another short sleep")
		}
		time.Sleep(3 * looking)
		p.found()
		if n := looks(); n != 0 {
			t.Errorf("looked %d times after a long sleep", n)
		}
		time.Sleep(3 * looking)
		p.found()
		p.found() // more of it: nobody slept between
		if n := looks(); n != 0 {
			t.Errorf("looked %d times after another", n)
		}
	})
}
