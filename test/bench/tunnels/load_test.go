package tunnels

import "testing"

func TestRcvbufErrors(t *testing.T) {
	const head = "Tcp: RtoAlgorithm RtoMin\nTcp: 1 200\n"
	const udp = "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\n"
	if n, err := rcvbufErrors(head + udp + "Udp: 1 2 3 4 57 6\nUdpLite: 0 0 0 0 9 0\n"); err != nil || n != 57 {
		t.Error(n, err)
	}
	for _, bad := range []string{"", head, udp, udp + "Udp: 1 2\n", "Udp: InDatagrams\nUdp: 1\n", udp + "Udp: 1 2 3 4 x 6\n"} {
		if n, err := rcvbufErrors(bad); err == nil {
			t.Errorf("%q: %d", bad, n)
		}
	}
}
