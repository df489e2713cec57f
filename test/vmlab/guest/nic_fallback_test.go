package guest

import (
	"testing"

	"espalier/test/lab"
)

// Packets of an offloaded SA that its NIC leaves to software, each with one answer of its kind.
// The dump does not tell: only that the SA counts what the NIC does not.
func TestNICFallback(t *testing.T) {
	hardware := tally{Numbered: 1, Packets: 1, Encrypted: 1, Decrypted: 1, Accepted: 1}
	software := tally{Numbered: 1, Packets: 1, Accepted: 1}
	l := newNICLab(t, "p4p1")
	p := lab.Pair{}
	l.program(t, p)
	for _, tt := range []struct {
		name   string
		args   []string
		want   tally
		frames uint64
		result string
	}{
		{"an ordinary packet", nil, hardware, 2, "encrypted by the NIC"},
		{"IPv4 options", []string{"-R"}, software, 2, "encrypted in software; the SA says offloaded"},
		{"larger than the MTU", []string{"-s", "2000"}, software, 4, "encrypted in software, then cut up; the SA says offloaded"},
		{"an ordinary packet again", nil, hardware, 2, "encrypted by the NIC"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := l.tallies(t, p.SAs())
			cable := watchCable(t)
			if !l.A.Ping(lab.B4, 1, tt.args...) {
				t.Error("ping failed")
			}
			for i, after := range l.tallies(t, p.SAs()) {
				if got := after.since(before[i]); got != tt.want {
					t.Errorf("of host %s: %+v, want %+v", l.Hosts()[i].Name, got, tt.want)
				}
			}
			l.wantOffloaded(t, p.SAs())
			if counts, _ := cable.stop(t); counts.ESP != tt.frames || counts.Cleartext != 0 {
				t.Errorf("on the cable: %+v, want %d ESP packets", counts, tt.frames)
			}
			if !t.Failed() {
				Tell("Packets of an offloaded SA", tt.name, tt.result)
			}
		})
	}
}
