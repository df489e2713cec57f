package failclosed

import (
	"fmt"
	"strings"
	"testing"

	"espalier/test/lab"
)

// Strict reverse path filtering, for all devices and the underlay device, found at start.
func TestStrictRPFilter(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "")
	for _, h := range l.Hosts() {
		setRPFilter(t, h, "1")
	}
	startDevices(l)
	program(l, pairs(0))
	wantClosed(t, l, l.A, "strict rp_filter", func() { checkWorks(t, l, "strict rp_filter") })
}

// An input firewall that knows the underlay device only drops what has been decrypted: it
// comes in by the TUN. The device says at start which rule needs a twin.
func TestInputFirewall(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "nft")
	for _, match := range []string{"iifname", "iif"} {
		t.Run(match, func(t *testing.T) {
			t.Parallel()
			l := lab.New(t, "")
			l.A.Must("nft", "add table inet filter; "+
				"add chain inet filter input { type filter hook input priority 0; policy drop; }; "+
				fmt.Sprintf("add rule inet filter input %s %s accept", match, l.Device))
			startDevices(l)
			program(l, pairs(0))
			warning := fmt.Sprintf(`rule="inet filter input: %s \"%s\"" tun=esp-%[2]s`, match, l.Device)
			if !l.A.AwaitLog(warning) {
				t.Errorf("the device does not name the rule (%s):\n%s", warning, l.A.Log())
			}
			if strings.Contains(l.B.Log(), "firewall") {
				t.Errorf("B has no firewall, but:\n%s", l.B.Log())
			}

			if l.B.Ping(lab.A4, 1) || l.B.Ping(lab.A6, 1) {
				t.Error("ping passed without the twin: is this a firewall?")
			}
			l.A.Must("nft", "add", "rule", "inet", "filter", "input", match, "esp-"+l.Device, "accept")
			checkWorks(t, l, "with the twin")
		})
	}
}
