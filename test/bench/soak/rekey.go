package soak

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"espalier/test/bench/device/hosts"
	"espalier/test/lab"
)

// tunnel is the SAs between two hosts, of which there is a new generation from time to time.
type tunnel struct {
	*hosts.Pair
	udp        bool
	generation uint32 // the last installed, from 1
	grace      time.Duration
}

const (
	reqid    = 1 // of A→B; B→A has the next
	firstSPI = 0x10000
)

// sa is one direction of a generation. It has a key only while it is being installed.
type sa struct {
	from, to *hosts.Host
	src, dst netip.Addr
	spi      uint32
	reqid    uint32
	key      []byte
}

// pair is both directions of a generation.
func (t *tunnel) pair(generation uint32) [2]sa {
	spi := firstSPI + 2*generation
	return [2]sa{
		{t.A, t.B, lab.A4, lab.B4, spi, reqid, nil},
		{t.B, t.A, lab.B4, lab.A4, spi + 1, reqid + 1, nil},
	}
}

// rekey installs the next generation and takes out the one before: new inbound SAs on both hosts, new
// outbound ones, with which the hosts begin to send by them; after a grace for what is under way the old
// outbound SAs go, and the old inbound ones. Keys are fresh, and come by stdin.
func (t *tunnel) rekey(ctx context.Context) error {
	fresh := t.pair(t.generation + 1)
	for i := range fresh {
		fresh[i].key = make([]byte, 32+4) // AES-256 and its salt
		rand.Read(fresh[i].key)
	}
	for _, x := range fresh {
		if err := x.to.Batch(ctx, t.add(x, "in")); err != nil {
			return err
		}
	}
	for _, x := range fresh {
		if err := x.from.Batch(ctx, t.add(x, "out")); err != nil {
			return err
		}
	}
	t.generation++
	if t.generation == 1 {
		return nil
	}
	select {
	case <-time.After(t.grace):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	old := t.pair(t.generation - 1)
	for _, x := range old {
		if err := x.from.Batch(ctx, x.remove()); err != nil {
			return err
		}
	}
	for _, x := range old {
		if err := x.to.Batch(ctx, x.remove()); err != nil {
			return err
		}
	}
	return nil
}

// add is the command that installs the SA on one of its hosts.
func (t *tunnel) add(x sa, direction string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "ip xfrm state add src %s dst %s proto esp spi %#x reqid %d mode transport aead 'rfc4106(gcm(aes))' 0x%x 128",
		x.src, x.dst, x.spi, x.reqid, x.key)
	if direction == "in" {
		s.WriteString(" replay-window 64")
	}
	if t.udp {
		s.WriteString(" encap espinudp 4500 4500 0.0.0.0")
	}
	fmt.Fprintf(&s, " offload dev %s dir %s\n", hosts.Device, direction)
	return s.String()
}

// remove is the command that takes the SA out.
func (x sa) remove() string {
	return fmt.Sprintf("ip xfrm state delete src %s dst %s proto esp spi %#x\n", x.src, x.dst, x.spi)
}
