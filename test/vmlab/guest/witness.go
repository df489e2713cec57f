package guest

import (
	"strings"

	"espalier/test/lab"
)

// Recording is traffic on the cable between the ends of the lab's NIC, which a witness outside
// of the VM is to judge.
type Recording struct {
	Name      string
	*lab.Pair           // the SAs; nil: those of the vendor's commands
	EchoIDs   [2]uint16 // of the echo requests A and B send
}

// File is the name of the capture that is saved.
func (r *Recording) File() string {
	return "witness/" + strings.ReplaceAll(r.Name, ", ", "-") + ".pcap"
}

// Recordings are what TestWitness makes.
var Recordings = []Recording{
	{"vendor, IPv4, transport, AES-256", nil, [2]uint16{0x1a, 0x1b}},
	{"IPv6, tunnel, AES-128", &lab.Pair{V6: true, Tunnel: true, KeyBits: 128, SPI: 0x2000}, [2]uint16{0x2a, 0x2b}},
	{"IPv6, tunnel, AES-128, ESN", &lab.Pair{V6: true, Tunnel: true, KeyBits: 128, ESN: true, SPI: 0x3000}, [2]uint16{0x3a, 0x3b}},
}

// The traffic of each recording.
const (
	RecordedPings = 2       // each way
	RecordedBytes = 100_000 // of TCP: by connections from A and from B, each there and back
)
