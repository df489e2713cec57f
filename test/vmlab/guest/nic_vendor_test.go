package guest

import (
	"strconv"
	"testing"

	"espalier/test/lab"
)

// The vendor's commands on a NIC that offloads: they say so when read back, traffic passes, and
// the NIC has encrypted every packet that the SAs have numbered.
func TestVendorOffloaded(t *testing.T) {
	spi := func(text string) uint32 {
		n, err := strconv.ParseUint(text, 0, 32)
		if err != nil {
			t.Fatal(err)
		}
		return uint32(n)
	}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			l := newNICLab(t, "enp4s0")
			p.run(t, l.A, read(t, vendor+"first-server.xfrm.sh"))
			p.run(t, l.B, corrected(t, read(t, vendor+"second-server.xfrm.sh")))
			sas := [2]lab.SA{
				{Src: lab.A4, Dst: lab.B4, SPI: spi(firstToSecond)},
				{Src: lab.B4, Dst: lab.A4, SPI: spi(secondToFirst)},
			}
			l.wantOffloaded(t, sas)
			before := l.tallies(t, sas)
			if !l.A.Ping(lab.B4, 2) || !l.B.Ping(lab.A4, 2) {
				t.Error("ping failed")
			}
			l.MustExchange(t, lab.A4, lab.B4, exchanged/2)
			for i, after := range l.tallies(t, sas) {
				got := after.since(before[i])
				n := got.Numbered
				want := tally{Numbered: n, Packets: got.Packets, Encrypted: n, Decrypted: n, Accepted: n}
				if n < exchanged/1500 || got != want {
					t.Errorf("of host %s: %+v, want %+v", l.Hosts()[i].Name, got, want)
				}
			}
			for _, h := range l.Hosts() {
				if drops := l.drops(t, h); len(drops) != 0 {
					t.Errorf("host %s dropped %v", h.Name, drops)
				}
			}
		})
	}
	if !t.Failed() {
		Tell("The NIC vendor's commands", "on a NIC that offloads", "offloaded; the NIC's counts are the SAs' numbers, nothing is dropped")
	}
}
