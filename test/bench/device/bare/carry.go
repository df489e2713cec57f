package main

import (
	"encoding/binary"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
	"espalier/tun"
)

// outbound carries frames from the TUN to the wire.
func outbound(from int, w *wire) error {
	runtime.LockOSThread()
	batch := newMessages()
	for i := range batch.slots {
		copy(batch.slots[i][:], w.header)
	}
	buf := make([]byte, tun.BufferLen)
	var segments tun.Segmenter
	for {
		n, errno := transfer(unix.SYS_READ, from, buf)
		if errno == unix.EAGAIN {
			if err := wait(from, unix.POLLIN); err != nil {
				return err
			}
			continue
		}
		if errno != 0 {
			return os.NewSyscallError("read TUN", errno)
		}
		frame := tun.ParseFrame(buf[:n])
		if segments.Load(&frame) != nil {
			continue
		}
		for at, count := 0, segments.Count(); at < count; {
			some := min(count-at, batchLen)
			for i := range some {
				w.lay(batch, i, &segments, at+i)
			}
			if err := batch.send(w.send, 0, some); err != nil {
				return err
			}
			at += some
		}
	}
}

// lay writes a packet of the frame behind the header of message i.
func (w *wire) lay(batch *messages, i int, segments *tun.Segmenter, packet int) {
	slot := batch.slots[i][:]
	size := segments.Size(packet)
	if len(w.header)+size > len(slot) {
		size = 0 // the device's MTU forbids it
	} else {
		segments.Write(slot[len(w.header):], packet)
	}
	batch.iovecs[i].SetLen(len(w.header) + size)
	if w.ipAt >= 0 {
		ip := slot[w.ipAt:]
		binary.BigEndian.PutUint16(ip[2:], uint16(inet.IPv4Len+espLen+size))
		inet.SetIPv4Checksum(ip[:inet.IPv4Len])
	}
}

// inbound carries packets from the wire to the TUN. Frames grow as long as there are packets.
func inbound(w *wire, to int) error {
	runtime.LockOSThread()
	var failed error
	join := tun.NewCoalescer(false, func(h tun.VirtioHeader, buf []byte, _ int) {
		encode(h, buf)
		if _, errno := transfer(unix.SYS_WRITE, to, buf); errno != 0 && errno != unix.EIO && errno != unix.EINVAL {
			failed = os.NewSyscallError("write TUN", errno)
		}
	})
	const outer = inet.IPv4Len + espLen
	batch := newMessages()
	var h inet.Header
	for failed == nil {
		n, err := batch.receive(w.receive)
		if err != nil {
			return err
		}
		if n == 0 {
			join.Flush()
			if err := wait(w.receive, unix.POLLIN); err != nil {
				return err
			}
			continue
		}
		for i := range n {
			packet := batch.slots[i][:min(int(batch.headers[i].length), slotLen)]
			if len(packet) > outer && h.Parse(packet[outer:]) == nil {
				join.Add(packet[outer-tun.HeaderLen:], &h)
			}
		}
	}
	return failed
}
