package witness

import (
	"fmt"
	"net/netip"
	"testing"

	"espalier/test/lab"
)

// cells are all kinds of SAs that the witnesses know, each with SPIs of its own.
func cells(esn []bool) (pairs []lab.Pair) {
	both := []bool{false, true}
	for _, e := range esn {
		for _, tunnel := range both {
			for _, v6 := range both {
				for _, bits := range []int{128, 256} {
					for _, udp := range both {
						pairs = append(pairs, lab.Pair{
							Tunnel: tunnel, V6: v6, KeyBits: bits, UDP: udp, ESN: e,
							SPI: uint32(0x1000 + 0x10*len(pairs)),
						})
					}
				}
			}
		}
	}
	return pairs
}

func name(p lab.Pair) string {
	pick := func(b bool, yes, no string) string {
		if b {
			return yes
		}
		return no
	}
	return fmt.Sprintf("%s-%s-%d-%s-%s", pick(p.Tunnel, "tunnel", "transport"), pick(p.V6, "v6", "v4"), p.KeyBits,
		pick(p.UDP, "udp", "raw"), pick(p.ESN, "esn", "noesn"))
}

func a(p lab.Pair) netip.Addr {
	a, _ := p.Ends()
	return a
}

// ping has h send count echo requests, all to be answered. They go one at a time: of several,
// ping waits for the last ones only as long as two of the round trips before, which on a busy
// machine is too short.
func ping(t *testing.T, h *lab.Host, dst netip.Addr, id, count int) {
	t.Helper()
	for range count {
		r := h.Command("ping", "-n", "-W", "3", "-c", "1", "-e", fmt.Sprint(id), dst.String())
		if r.Code != 0 {
			t.Errorf("ping %s from host %s: exit %d\n%s%s", dst, h.Name, r.Code, r.Stdout, r.Stderr)
		}
	}
}
