package guest

import (
	"maps"
	"testing"

	"espalier/test/lab"
)

// What shows, and where, that a NIC does not do what it says: A sends three packets to B.
func TestNICFaults(t *testing.T) {
	const n = 3
	lost := map[string]uint64{"XfrmInStateProtoError": n}
	tests := []struct {
		name    string
		fault   string // of A's end, of B's
		onB     lab.Pair
		arrives bool
		clear   bool // what was sent can be read on the cable
		silent  bool // nothing is on the cable
		want    tally
		drops   map[string]uint64 // of B
		result  string
	}{
		{name: "honest", fault: "none,none", arrives: true,
			want:   tally{Numbered: n, Packets: n, Encrypted: n, Decrypted: n, Accepted: n},
			result: "all counts agree; nothing can be read on the wire"},
		{name: "lying, both ends", fault: "lying,lying", arrives: true, clear: true,
			want:   tally{Numbered: n, Packets: n, Accepted: n},
			result: "plaintext on the wire; the SAs count, the NICs do not"},
		{name: "lying, to an honest end", fault: "lying,none", clear: true,
			want:   tally{Numbered: n, Packets: n, ReceiveFailed: n, Failed: n},
			drops:  lost,
			result: "plaintext on the wire; the sender's SA counts, its NIC does not; the receiver counts failed ICVs and XfrmInStateProtoError"},
		{name: "forging, both ends", fault: "forging,forging", arrives: true, clear: true,
			want:   tally{Numbered: n, Packets: n, Encrypted: n, Decrypted: n, Accepted: n},
			result: "plaintext on the wire; all counts agree: only the wire tells"},
		{name: "forging, to software", fault: "forging,none", onB: lab.Pair{Software: true}, clear: true,
			want:   tally{Numbered: n, Packets: n, Encrypted: n, Failed: n},
			drops:  lost,
			result: "plaintext on the wire; the sender's counts agree; the receiver counts failed ICVs and XfrmInStateProtoError"},
		{name: "corrupt", fault: "corrupt,none",
			want:   tally{Numbered: n, Packets: n, Encrypted: n, ReceiveFailed: n, Failed: n},
			drops:  lost,
			result: "nothing can be read on the wire; the receiver counts failed ICVs and XfrmInStateProtoError"},
		{name: "drop, the sender's end", fault: "drop,none", silent: true,
			want:   tally{Numbered: n, Packets: n, SendDropped: n},
			result: "nothing is on the wire; the sender's SA counts, its NIC counts drops"},
		{name: "drop, the receiver's end", fault: "none,drop",
			want:   tally{Numbered: n, Packets: n, Encrypted: n, ReceiveFailed: n},
			result: "the receiver's NIC counts drops, its SA and XFRM counters nothing"},
	}
	l := newNICLab(t, "p4p1")
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			setParameter(t, "fault", tt.fault)
			p := lab.Pair{SPI: uint32(0x1000 + i*0x10)}
			tt.onB.SPI = p.SPI
			l.flush(t)
			l.apply(t, l.A, l.Script(l.A, p))
			l.apply(t, l.B, l.Script(l.B, tt.onB))

			before, dropped := l.tallies(t, p.SAs()), l.drops(t, l.B)
			cable := watchCable(t)
			patience := untilLost
			if tt.arrives {
				patience = untilThere
			}
			for range n {
				if l.arrives(t, p, patience) != tt.arrives {
					t.Errorf("arrived: %v", !tt.arrives)
				}
			}
			if got := l.tallies(t, p.SAs())[0].since(before[0]); got != tt.want {
				t.Errorf("counted %+v, want %+v", got, tt.want)
			}
			drops := l.drops(t, l.B)
			for name, before := range dropped {
				if drops[name] -= before; drops[name] == 0 {
					delete(drops, name)
				}
			}
			if !maps.Equal(drops, tt.drops) {
				t.Errorf("B dropped %v, want %v", drops, tt.drops)
			}
			counts, packets := cable.stop(t)
			if readable := showsIn(packets, plaintext); readable != tt.clear {
				t.Errorf("plaintext on the cable: %v", readable)
			}
			want := uint64(n)
			if tt.silent {
				want = 0
			}
			if counts.ESP != want || counts.Cleartext != 0 {
				t.Errorf("on the cable: %+v, want %d ESP packets", counts, want)
			}
			if !t.Failed() {
				Tell("Faults of a NIC on traffic", tt.name, tt.result)
			}
		})
	}
}
