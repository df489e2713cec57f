package lab

import (
	"net"

	"espalier/test/packets"
)

// Wire is the host's end of the cable in the hands of the test, which sends to the other host.
func (l *Lab) Wire(h *Host) *packets.Link {
	h.t.Helper()
	other := l.B
	if h == l.B {
		other = l.A
	}
	var mac net.HardwareAddr
	err := other.Do(func() error {
		dev, err := net.InterfaceByName(l.Device)
		if err == nil {
			mac = dev.HardwareAddr
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.link(l.Device, mac)
}

// TUN is the device's TUN in the hands of the test: what is sent goes to the device as if the
// kernel had routed it there, what is received the device has delivered.
func (h *Host) TUN() *packets.Link {
	h.t.Helper()
	return h.link(h.TUNName(), nil)
}

// TUNName is the name of the device's TUN.
func (h *Host) TUNName() string { return "esp-" + h.Device }

func (h *Host) link(device string, peer net.HardwareAddr) *packets.Link {
	h.t.Helper()
	var link *packets.Link
	err := h.Do(func() (err error) {
		link, err = packets.OpenLink(device, peer)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { link.Close() })
	return link
}
