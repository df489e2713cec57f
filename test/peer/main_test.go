// Package peer is the other host of a userspace device, packet by packet: it sends what a
// faulty, hostile or merely unusual peer would, and receives what the device sends. Every bad
// packet has to be dropped under its own reason, every legal one has to come through, and the
// device has to live on. Both ways go by the ESP of package packets.
package peer

import (
	"os"
	"testing"

	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }
