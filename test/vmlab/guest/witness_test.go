package guest

import (
	"fmt"
	"strings"
	"testing"

	"espalier/test/lab"
)

// What two offloading ends put on the cable is recorded, for the host to have judged by a third.
func TestWitness(t *testing.T) {
	for _, r := range Recordings {
		t.Run(r.Name, func(t *testing.T) {
			l := newNICLab(t, "enp4s0")
			a, b := lab.A4, lab.B4
			scripts := map[*lab.Host]string{l.A: read(t, vendor+"first-server.xfrm.sh"), l.B: corrected(t, read(t, vendor+"second-server.xfrm.sh"))}
			if r.Pair != nil {
				a, b = r.Ends()
				scripts = map[*lab.Host]string{l.A: l.Script(l.A, *r.Pair), l.B: l.Script(l.B, *r.Pair)}
			}
			for _, h := range l.Hosts() {
				l.apply(t, h, scripts[h])
				if list := h.Must("ip", "xfrm", "state", "list"); strings.Count(list, "crypto offload parameters: dev enp4s0") != 2 {
					t.Fatalf("host %s: not both SAs are offloaded:\n%s", h.Name, list)
				}
			}
			cable := watchCable(t)
			if !l.A.Ping(b, RecordedPings, "-e", fmt.Sprint(r.EchoIDs[0])) || !l.B.Ping(a, RecordedPings, "-e", fmt.Sprint(r.EchoIDs[1])) {
				t.Error("ping failed")
			}
			l.MustExchange(t, a, b, RecordedBytes)
			counts, _ := cable.stop(t)
			if counts.ESP == 0 || counts.Cleartext != 0 {
				t.Errorf("on the cable: %+v, want ESP only", counts)
			}
			cable.save(t, r.File())
		})
	}
}
