package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/vishvananda/netlink"

	"espalier/internal/wire"
	"espalier/test/lab"
)

// capture is of all that crosses the cable between the NIC's ends, where it is encrypted.
type capture struct {
	watcher *wire.Watcher
	saved   bytes.Buffer
	writer  *wire.PcapWriter
	stopped bool
}

// watchCable begins a capture. Everything between the hosts' addresses is to be protected. If the
// test fails the capture is saved.
func watchCable(t *testing.T) *capture {
	t.Helper()
	return watchCableFor(t, lab.Classifier())
}

// watchCableFor is watchCable with another judge.
func watchCableFor(t *testing.T, judge wire.Classifier) *capture {
	t.Helper()
	link, err := netlink.LinkByName("wire0")
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatalf("wire0: %v", err)
	}
	return watchDevice(t, link.Attrs().Name, judge, func(do func() error) error { return do() })
}

// watchDevice begins a capture on a device, in the network namespace where in runs things.
func watchDevice(t *testing.T, device string, judge wire.Classifier, in func(func() error) error) *capture {
	t.Helper()
	c := new(capture)
	var err error
	if c.writer, err = wire.NewPcapWriter(&c.saved); err != nil {
		t.Fatal(err)
	}
	err = in(func() (err error) {
		c.watcher, err = wire.Watch(device, judge, c.writer)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.save(t, t.Name()+".pcap")
		}
	})
	return c
}

// end ends the capture, if it goes on.
func (c *capture) end() (counts wire.Counts, err error) {
	if c.stopped {
		return counts, nil
	}
	c.stopped = true
	if counts, err = c.watcher.Stop(); err != nil {
		return counts, err
	}
	return counts, c.writer.Flush()
}

// save ends the capture and gives it to the host.
func (c *capture) save(t *testing.T, name string) {
	t.Helper()
	_, err := c.end()
	if err := errors.Join(err, Save(name, c.saved.Bytes())); err != nil {
		t.Error(err)
	}
}

// stop ends the capture and gives its IP packets.
func (c *capture) stop(t *testing.T) (wire.Counts, [][]byte) {
	t.Helper()
	counts, err := c.end()
	if err != nil || counts.Dropped != 0 {
		t.Fatalf("capture on wire0: %+v, %v", counts, err)
	}
	const fileHeader, packetHeader = 24, 16
	var packets [][]byte
	for b := c.saved.Bytes()[fileHeader:]; len(b) > 0; {
		end := packetHeader + binary.LittleEndian.Uint32(b[8:])
		packets = append(packets, b[packetHeader:end])
		b = b[end:]
	}
	return counts, packets
}

// showsIn reports whether a text can be read in one of the packets.
func showsIn(packets [][]byte, text []byte) bool {
	for _, p := range packets {
		if bytes.Contains(p, text) {
			return true
		}
	}
	return false
}
