package esp

import (
	"errors"
	"testing"

	"espalier/ipsec"
)

// Numbers of another host may be skipped; none goes back, for numbers are nonces.
func TestSkipNeverGoesBack(t *testing.T) {
	sa := testSA()
	o, err := NewOutbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Skip(100); err != nil {
		t.Fatal(err)
	}
	if first, err := o.Reserve(1); err != nil || first != 101 {
		t.Errorf("after a skip to 100: %d, %v", first, err)
	}
	for _, to := range []uint64{0, 100, 1 << 32} {
		if err := o.Skip(to); !errors.Is(err, ipsec.ErrInvalid) || o.Sent() != 101 {
			t.Errorf("skip to %d: %v, sent %d", to, err, o.Sent())
		}
	}
}
