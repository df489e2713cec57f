package verdict

import (
	"testing"

	"espalier/ipsec"
)

func TestJudge(t *testing.T) {
	crypto := ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: 2, Direction: ipsec.Outbound}
	ten := ipsec.Counters{Packets: 10}
	for _, c := range []struct {
		name string
		e    Evidence
		want Verdict
	}{
		{"device with offload", Evidence{Userspace: true, Offload: crypto, After: ten}, Emulated},
		{"device without offload", Evidence{Userspace: true, After: ten}, Software},
		{"kernel without offload", Evidence{After: ten}, Software},
		{"kernel with offload and nothing else", Evidence{Offload: crypto, After: ten}, Unknown},
		{"no traffic", Evidence{Userspace: true, Offload: crypto, Before: ten, After: ten}, Idle},
		{"replaced", Evidence{Userspace: true, Offload: crypto, Before: ten}, Unknown},
	} {
		if got, why := Judge(c.e); got != c.want || why == "" {
			t.Errorf("%s: %s (%s), want %s", c.name, got, why, c.want)
		}
	}
}
