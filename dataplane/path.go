package dataplane

import (
	"espalier/tun"
	"espalier/underlay"
)

// OutboundPath is what a queue of the device does with frames, with the packets going to wire: for
// benchmarks, which have neither queue nor sockets. It is for one goroutine at a time; frames and
// their memory are the caller's.
func (d *Device) OutboundPath(wire Wire) func(frames []tun.Frame) {
	return newOutbound(d, wire).handle
}

// InboundPath is what the device does with datagrams of protocol 50, with the frames going to
// deliver as to [tun.Queue.Write]; packets is how many there are in one. It is for one goroutine at
// a time; the datagrams' payloads are decrypted in place, buf is deliver's until it returns.
func (d *Device) InboundPath(deliver func(h tun.VirtioHeader, buf []byte, packets int)) func([]underlay.Datagram) {
	in := newInbound(d, false, deliver)
	return func(datagrams []underlay.Datagram) {
		in.handle(datagrams)
		in.tun.Flush()
	}
}
