package path

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

const batchSize = 32 // packets

// traffic is batches of packets of one SA, the last one added, each of another flow. The function
// that is returned carries so many and returns nanoseconds for each.
func (d *device) traffic(size int) (func(packets int) (float64, error), error) {
	hot := flow(d.tunnels - 1)
	packets := make([][]byte, batchSize)
	for i := range packets {
		f := hot
		f.SrcPort += uint16(i)
		if d.direction == "inbound" {
			f.Src, f.Dst = f.Dst, f.Src
		}
		packets[i] = packet(f, size)
	}
	if d.direction == "inbound" {
		return d.inbound(packets)
	}
	return d.outbound(packets)
}

// packet is a UDP datagram of so many bytes, IPv4 header included.
func packet(f ipsec.Flow, size int) []byte {
	p := make([]byte, size)
	p[0], p[6], p[8], p[9] = 0x45, 0x40, 64, f.Protocol // do not fragment
	src, dst := f.Src.As4(), f.Dst.As4()
	copy(p[12:], src[:])
	copy(p[16:], dst[:])
	binary.BigEndian.PutUint16(p[20:], f.SrcPort)
	binary.BigEndian.PutUint16(p[22:], f.DstPort)
	binary.BigEndian.PutUint16(p[24:], uint16(size-inet.IPv4Len)) // and no checksum
	inet.SetLength(p)
	return p
}

// wire counts packets, and opens the first ones: what is measured is the real thing.
type wire struct {
	sent  int
	check func(packets [][]byte) error
	err   error
}

func (w *wire) Send(packets [][]byte) (int, error) {
	w.sent += len(packets)
	if w.check != nil {
		w.err = w.check(packets)
		w.check = nil
	}
	return len(packets), nil
}

func (w *wire) SendUDP(*underlay.Message) error {
	return errors.New("there is no UDP encapsulation here")
}

func (d *device) outbound(packets [][]byte) (func(int) (float64, error), error) {
	frames := make([]tun.Frame, len(packets))
	for i := range frames {
		frames[i].Packet = packets[i]
	}
	w := &wire{check: func(sent [][]byte) error { return d.opens(sent, packets) }}
	path := d.OutboundPath(w)
	if path(frames); w.err != nil || w.sent != batchSize {
		return nil, fmt.Errorf("%d of %d packets left: %w", w.sent, batchSize, w.err)
	}
	return func(n int) (float64, error) {
		batches := (n + batchSize - 1) / batchSize
		w.sent = 0
		begin := cpuTime()
		for range batches {
			path(frames)
		}
		took := cpuTime() - begin
		if w.sent != batches*batchSize {
			return 0, fmt.Errorf("%d of %d packets left", w.sent, batches*batchSize)
		}
		return float64(took.Nanoseconds()) / float64(w.sent), nil
	}, nil
}

// opens checks what was sent with the receiver's SA.
func (d *device) opens(sent, packets [][]byte) error {
	sa := d.sa(d.tunnels - 1)
	sa.Direction, sa.Window = ipsec.Inbound, 64
	in, err := esp.NewInbound(&sa)
	if err != nil {
		return err
	}
	received := make([]esp.Packet, len(sent))
	for i, p := range sent {
		received[i].Data = slices.Clone(p[inet.IPv4Len:])
	}
	in.Open(new(esp.Batch), received)
	for i := range received {
		if p := &received[i]; p.Err != nil || !slices.Equal(p.Payload, packets[i]) {
			return fmt.Errorf("packet %d does not open: %w", i, p.Err)
		}
	}
	return nil
}

// sender is the other end of the hot SA, which goes on with its numbers.
func (d *device) sender() (_ *esp.Outbound, err error) {
	if d.peer == nil {
		sa := d.sa(d.tunnels - 1)
		sa.Direction, sa.Window = ipsec.Outbound, 0
		d.peer, err = esp.NewOutbound(&sa)
	}
	return d.peer, err
}

// inbound has the batch sealed anew each time, which is not measured.
func (d *device) inbound(packets [][]byte) (func(int) (float64, error), error) {
	out, err := d.sender()
	if err != nil {
		return nil, err
	}
	outer := packet(ipsec.Flow{Src: gatewayB, Dst: gatewayA, Protocol: inet.ProtoESP}, 28)[:inet.IPv4Len]
	sealed := make([][]byte, len(packets))
	datagrams := make([]underlay.Datagram, len(packets))
	for i := range packets {
		sealed[i] = make([]byte, out.Len(len(packets[i])))
		datagrams[i] = underlay.Datagram{
			Local: netip.AddrPortFrom(gatewayA, 0), Remote: netip.AddrPortFrom(gatewayB, 0),
			Header: outer, ProtocolAt: 9, Payload: sealed[i],
		}
	}
	var batch esp.Batch
	seal := func() error {
		first, err := out.Reserve(len(packets))
		if err != nil {
			return err
		}
		for i := range packets {
			copy(sealed[i][esp.HeaderLen+esp.IVLen:], packets[i])
			out.Lay(sealed[i], len(packets[i]), first+uint64(i), inet.ProtoIPIP)
		}
		return out.Seal(&batch, sealed, first)
	}
	delivered, same := 0, true
	path := d.InboundPath(func(_ tun.VirtioHeader, buf []byte, n int) {
		same = same && n == 1 && len(buf) == tun.HeaderLen+len(packets[0])
		delivered += n
	})
	return func(n int) (float64, error) {
		batches := (n + batchSize - 1) / batchSize
		delivered = 0
		var took time.Duration
		for range batches {
			if err := seal(); err != nil {
				return 0, err
			}
			begin := time.Now()
			path(datagrams)
			took += time.Since(begin)
		}
		if delivered != batches*batchSize || !same {
			return 0, fmt.Errorf("%d of %d packets were delivered", delivered, batches*batchSize)
		}
		return float64(took.Nanoseconds()) / float64(delivered), nil
	}, nil
}

// cpuTime is what the calling thread has used.
func cpuTime() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // there is no kernel without
	return time.Duration(t.Nano())
}
