package server

import (
	"errors"
	"testing"

	"espalier/ipsec"
	"espalier/xfrm"
)

// TestRefusedKey: of a state that cannot be converted, no key stays in memory.
func TestRefusedKey(t *testing.T) {
	for name, spoil := range map[string]func(*xfrm.State){
		"nothing": func(*xfrm.State) {},
		"mark":    func(s *xfrm.State) { s.Mark = &xfrm.Mark{Value: 1, Mask: 1} },
		"flag":    func(s *xfrm.State) { s.Flags |= xfrm.FlagNoECN },
		"limit":   func(s *xfrm.State) { s.Limits.HardAdd = xfrm.Infinity },
		"no AEAD": func(s *xfrm.State) { s.AEAD = nil },
	} {
		sa := testSA(1)
		state, err := xfrm.StateFromSA(&sa)
		if err != nil {
			t.Fatal(err)
		}
		key := sa.Key
		spoil(state)
		_, err = toSA(state)
		wiped := key.Equal(ipsec.NewKey(make([]byte, key.Len())))
		switch {
		case name == "nothing":
			if err != nil || wiped {
				t.Errorf("a good state: %v, key wiped: %v", err, wiped)
			}
		case !errors.Is(err, ipsec.ErrUnsupported):
			t.Errorf("%s: %v", name, err)
		case state.AEAD != nil && !wiped:
			t.Errorf("%s: the key is still there", name)
		}
	}
}
