package guest

// EchoPort is where the host outside sends back what it receives, by TCP and by UDP.
const EchoPort = 7

// The hardware addresses at both ends of the wire: the host's outside, and that of the NIC in
// the VM whose cable is led outside.
const (
	HostMAC = "02:00:00:00:00:01"
	NICMAC  = "02:00:00:00:00:03"
)
