package accept

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"espalier/remote"
)

// TestShortTransfer: traffic that is to end before its connections are there still has them, and something
// arrives, at whatever pace.
func TestShortTransfer(t *testing.T) {
	for _, pace := range []int{0, 50_000} {
		r := &run{Options: Options{Duration: time.Nanosecond, Pace: pace}}
		for i, h := range []**Host{&r.A, &r.B} {
			c := remote.Local("host", Operations(nil))
			t.Cleanup(func() { c.Close() })
			*h = &Host{Conn: c, label: string(rune('A' + i)), Address: netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)})}
		}
		s := StepReport{mu: new(sync.Mutex)}
		if err := r.transferBoth(t.Context(), &s, nil); err != nil {
			t.Fatal(err)
		}
		if len(s.Transfers) != 2 || s.Transfers[0].Bytes == 0 || s.Transfers[1].Bytes == 0 {
			t.Errorf("at a pace of %d: %+v", pace, s.Transfers)
		}
	}
}
