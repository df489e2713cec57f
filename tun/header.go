package tun

import "encoding/binary"

// HeaderLen is the length in bytes of the virtio_net_hdr in front of every packet read
// from or written to a queue.
const HeaderLen = 10

// Flags of a VirtioHeader (linux/virtio_net.h, VIRTIO_NET_HDR_F_*).
const (
	NeedsChecksum = 1 << 0 // the sum from ChecksumStart on is to be stored at ChecksumStart+ChecksumOffset
	DataValid     = 1 << 1 // the checksums have been verified
)

// Segmentation types of a VirtioHeader (linux/virtio_net.h, VIRTIO_NET_HDR_GSO_*).
const (
	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDP   = 5    // UDP_SEGMENT, of either family
	GSOECN   = 0x80 // or-ed to a TCP type: CWR is set, and belongs to the first segment only
)

// VirtioHeader is struct virtio_net_hdr (linux/virtio_net.h). The zero value describes a
// complete packet whose checksums nobody vouches for.
type VirtioHeader struct {
	Flags          uint8
	GSOType        uint8
	HeaderLength   uint16 // bytes of headers, a hint; 0 if unknown
	GSOSize        uint16 // bytes of TCP or UDP payload per segment
	ChecksumStart  uint16 // offset in the packet
	ChecksumOffset uint16 // offset from ChecksumStart
}

// decode reads the header in the machine's byte order, which is the order of a TUN
// device unless TUNSETVNETLE or TUNSETVNETBE says otherwise. b holds HeaderLen bytes.
func (h *VirtioHeader) decode(b []byte) {
	_ = b[HeaderLen-1]
	h.Flags = b[0]
	h.GSOType = b[1]
	h.HeaderLength = binary.NativeEndian.Uint16(b[2:])
	h.GSOSize = binary.NativeEndian.Uint16(b[4:])
	h.ChecksumStart = binary.NativeEndian.Uint16(b[6:])
	h.ChecksumOffset = binary.NativeEndian.Uint16(b[8:])
}

// encode is the reverse of decode.
func (h *VirtioHeader) encode(b []byte) {
	_ = b[HeaderLen-1]
	b[0] = h.Flags
	b[1] = h.GSOType
	binary.NativeEndian.PutUint16(b[2:], h.HeaderLength)
	binary.NativeEndian.PutUint16(b[4:], h.GSOSize)
	binary.NativeEndian.PutUint16(b[6:], h.ChecksumStart)
	binary.NativeEndian.PutUint16(b[8:], h.ChecksumOffset)
}
