package guest

import "espalier/test/lab"

// InteropPairs are what the suite's own network is about: the host at the other end has the
// userspace device and these SAs, as host A of the lab; the VM is host B.
var InteropPairs = []struct {
	Name string
	lab.Pair
}{
	{"IPv4, transport, AES-256, no ESN", lab.Pair{Window: 64}},
	{"IPv6, tunnel, AES-128, ESN", lab.Pair{V6: true, Tunnel: true, KeyBits: 128, ESN: true, Window: 64, SPI: 0x2000}},
}

// EchoPort is the TCP port of the host that sends back what it receives.
const EchoPort = 7

// Replays is how many ESP packets are carried twice in each direction.
const Replays = 3

// HostMAC is the hardware address of the host at the other end.
const HostMAC = "02:00:00:00:00:01"
