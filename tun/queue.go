package tun

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
)

// MaxPacket is the length in bytes of the longest packet a queue hands over: the
// kernel's limit for segmentation offload without jumbograms.
const MaxPacket = 1 << 16

// BufferLen is the length in bytes of a buffer that holds any frame.
const BufferLen = HeaderLen + MaxPacket

// Queue is one queue of a device. One goroutine may read while another writes.
type Queue struct {
	file *fd.File
}

// Frame is what one read returned: an IP packet, possibly several TCP segments in one,
// and the kernel's notes on what is left to do. Packet points into the buffer given to
// Read, HeaderLen bytes behind its start.
type Frame struct {
	Header VirtioHeader
	Packet []byte
}

// File is for a Set that waits for the queue and others.
func (q *Queue) File() *fd.File { return q.file }

// Read waits for a frame: see TryRead.
func (q *Queue) Read(buf []byte) (Frame, error) {
	for {
		f, err := q.TryRead(buf)
		if !errors.Is(err, unix.EAGAIN) {
			return f, err
		}
		if err := q.file.Wait(unix.POLLIN); err != nil {
			return Frame{}, err
		}
	}
}

// TryRead puts one frame into buf, which belongs to the caller, must be at least BufferLen long
// (else io.ErrShortBuffer: the kernel would cut the frame silently), and is not kept. If there is
// none, it returns EAGAIN; after Close os.ErrClosed; once the device was removed by somebody else,
// EBADFD.
func (q *Queue) TryRead(buf []byte) (Frame, error) {
	if len(buf) < BufferLen {
		return Frame{}, io.ErrShortBuffer
	}
	n, err := q.file.Read(buf)
	if err != nil {
		return Frame{}, err
	}
	if n < HeaderLen {
		return Frame{}, fmt.Errorf("read TUN device %s: %d bytes are no virtio_net_hdr", q.file.Name(), n)
	}
	return ParseFrame(buf[:n:n]), nil
}

// ParseFrame reads a frame as a queue hands it over, and packet sockets do with PACKET_VNET_HDR: buf is at
// least HeaderLen long.
func ParseFrame(buf []byte) Frame {
	f := Frame{Packet: buf[HeaderLen:]}
	f.Header.decode(buf)
	return f
}

// Write hands the packet buf[HeaderLen:] to the kernel's stack, described by h. The first
// HeaderLen bytes of buf are overwritten; buf belongs to the caller and is not kept. The
// kernel answers EINVAL for a packet that h does not fit, EIO while the device is down.
func (q *Queue) Write(h VirtioHeader, buf []byte) error {
	if len(buf) <= HeaderLen {
		return fmt.Errorf("write TUN device %s: no packet behind the %d bytes of header", q.file.Name(), HeaderLen)
	}
	h.encode(buf)
	_, err := q.file.Write(buf)
	return err
}
