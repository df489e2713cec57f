package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
	"espalier/internal/inet"
)

// Tap receives ESP of both families from one device before the kernel's IP layer does, from memory
// that it shares with the kernel (packet(7), PACKET_RX_RING): as long as there are packets, it makes
// no system call. It takes what is whole and for this host's link-layer address: no fragments, no
// VLAN, no IPv6 extension headers. All of that, and all that it takes too, also comes by the sockets of
// [ListenRaw], unless somebody drops it behind the tap.
//
// Nobody has looked at what it receives: neither the packet filter nor the reverse path filter, nor
// whether the destination is an address of this host.
//
// Datagrams are as those of protocol 50 are from a raw socket, but an IPv6 header is as received,
// with its length. They point into the shared memory. One goroutine at a time may use a Tap.
type Tap struct {
	file  *fd.File
	ring  []byte
	slot  int // bytes of each packet's place
	at    int // slot of the next packet
	lent  int // slots before it that were handed out
	zone  string
	state atomic.Int32 // of ring

	malformed, lost atomic.Uint64
}

// States of a Tap's ring.
const (
	ringIdle   = iota // nobody reads it
	ringInUse         // TryReceive does, or its caller reads what that handed out
	ringClosed        // it is unmapped
)

// Sizes of the ring in bytes. A packet stands behind the kernel's description of it.
const (
	smallestSlot = 2048
	largestSlot  = 1 << 16 // also the size of a block, which a slot must fit into
	ringHeadroom = 128
	smallestRing = 16 * largestSlot
)

// ListenTap opens taps on the device with this index, for packets up to its MTU. There are cfg.Share of
// them, among whom the SAs are divided as among the sockets of [ListenRaw]; cfg.Buffer is the size of each
// ring. It takes CAP_NET_RAW.
func ListenTap(cfg Config, device, mtu int) ([]*Tap, error) {
	taps := make([]*Tap, 0, cfg.share())
	for i := range cfg.share() {
		t, err := openTap(cfg, device, mtu, i)
		if err != nil {
			for _, t := range taps {
				t.Close()
			}
			return nil, err
		}
		taps = append(taps, t)
	}
	return taps, nil
}

func openTap(cfg Config, device, mtu, number int) (*Tap, error) {
	file, err := open(Config{Buffer: 1}, "packet", unix.AF_PACKET, unix.SOCK_DGRAM, 0,
		option{"PACKET_VERSION", unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2},
		option{"PACKET_IGNORE_OUTGOING", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1})
	if err != nil {
		return nil, err
	}
	t := &Tap{file: file, slot: smallestSlot, zone: strconv.Itoa(device)}
	for t.slot < mtu+ringHeadroom && t.slot < largestSlot {
		t.slot *= 2
	}
	size := cfg.Buffer
	if size == 0 {
		size = defaultBuffer
	}
	blocks := max(size, smallestRing) / largestSlot
	if err := attach(file, unix.SO_ATTACH_FILTER, tapFilter(number, cfg.share())); err != nil {
		file.Close()
		return nil, err
	}
	if err := file.Control(func(number int) error { return t.begin(number, device, blocks) }); err != nil {
		file.Close()
		return nil, fmt.Errorf("set up packet socket: %w%s", err, hint(err))
	}
	return t, nil
}

func (t *Tap) begin(number, device, blocks int) (err error) {
	ring := unix.TpacketReq{
		Block_size: largestSlot, Block_nr: uint32(blocks),
		Frame_size: uint32(t.slot), Frame_nr: uint32(blocks * (largestSlot / t.slot)),
	}
	if err := unix.SetsockoptTpacketReq(number, unix.SOL_PACKET, unix.PACKET_RX_RING, &ring); err != nil {
		return fmt.Errorf("PACKET_RX_RING of %d bytes: %w", blocks*largestSlot, err)
	}
	t.ring, err = unix.Mmap(number, 0, blocks*largestSlot, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	const all = unix.ETH_P_ALL << 8 // before the packet filter, which those of one protocol come after
	if err := unix.Bind(number, &unix.SockaddrLinklayer{Protocol: all, Ifindex: device}); err != nil {
		unix.Munmap(t.ring)
		return fmt.Errorf("bind to device %d: %w", device, err)
	}
	return nil
}

// tapFilter takes what the tap of this number takes. The socket sees a packet from its IP header on.
func tapFilter(number, sockets int) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: ldWord, K: packetType},
		{Code: jumpEqual, K: unix.PACKET_HOST, Jf: 18},
		{Code: ldWord, K: vlanPresent},
		{Code: jumpEqual, K: 0, Jf: 16},
		{Code: ldWord, K: protocol},
		{Code: jumpEqual, K: unix.ETH_P_IPV6, Jt: 8},
		{Code: jumpEqual, K: unix.ETH_P_IP, Jf: 13},
		{Code: ldByte, K: 9}, // IPv4 protocol
		{Code: jumpEqual, K: inet.ProtoESP, Jf: 11},
		{Code: ldHalf, K: 6}, // more fragments, and the offset
		{Code: jumpSet, K: 0x3fff, Jt: 9},
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0}, // length of the header
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_IND, K: 0},  // SPI behind it
		{Code: unix.BPF_JMP | unix.BPF_JA, K: 3},
		{Code: ldByte, K: 6}, // IPv6 next header
		{Code: jumpEqual, K: inet.ProtoESP, Jf: 4},
		{Code: ldWord, K: inet.IPv6Len}, // SPI
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(sockets)},
		{Code: jumpEqual, K: uint32(number), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<18 - 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// Instructions of linux/filter.h.
const (
	ldByte    = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	ldHalf    = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
	ldWord    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpSet   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K

	protocol    = 0xfffff000    // SKF_AD_OFF, SKF_AD_PROTOCOL
	packetType  = protocol + 4  // SKF_AD_PKTTYPE
	vlanPresent = protocol + 48 // SKF_AD_VLAN_TAG_PRESENT
)

// File is for a Set that waits for the tap and others.
func (t *Tap) File() *fd.File { return t.file }

// Capacity is the length of the longest packet that fits into the ring, in bytes.
func (t *Tap) Capacity() int { return t.slot - ringHeadroom }

// Malformed counts what was thrown away: packets whose IP header's length or checksum is wrong. It may be
// called at any time.
func (t *Tap) Malformed() uint64 { return t.malformed.Load() }

// Lost counts packets that found the ring full, or were longer than Capacity. One goroutine at a time
// may call it, at any time.
func (t *Tap) Lost() uint64 {
	t.file.Control(func(number int) error {
		stats, err := unix.GetsockoptTpacketStats(number, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil {
			t.lost.Add(uint64(stats.Drops)) // since it was asked the last time
		}
		return err
	})
	return t.lost.Load()
}

// TryReceive is [Receiver.TryReceive].
func (t *Tap) TryReceive(batch []Datagram) (int, error) {
	if len(batch) == 0 {
		return 0, errors.New("receive: the batch has no room")
	}
	if t.state.Swap(ringInUse) == ringClosed {
		t.state.Store(ringClosed)
		return 0, os.ErrClosed
	}
	t.giveBack()
	n := 0
	for n < len(batch) && !t.file.Closed() {
		p, ok := t.next()
		if !ok {
			break
		}
		switch {
		case p == nil:
			t.lost.Add(1)
		case !t.decode(&batch[n], p):
			t.malformed.Add(1)
		default:
			n++
		}
	}
	if n > 0 {
		return n, nil
	}
	t.giveBack()
	if err := t.error(); err != nil {
		return 0, err
	}
	t.state.Store(ringIdle)
	if t.file.Closed() && t.unmap() { // it was when nobody could unmap the ring but us
		return 0, os.ErrClosed
	}
	return 0, unix.EAGAIN
}

// error takes an error from the socket, which would wake whoever waits for it again and again. A device
// that is down, or gone, is none: it may be up again.
func (t *Tap) error() error {
	var none [1]byte
	switch _, errno := t.file.Call(unix.SYS_RECVFROM, unsafe.Pointer(&none), len(none), unix.MSG_DONTWAIT); errno {
	case 0, unix.EAGAIN, unix.ENETDOWN, fd.Closed:
		return nil
	default:
		return receiveError{t.file.Name(), errno}
	}
}

// giveBack gives the slots that were handed out to the kernel.
func (t *Tap) giveBack() {
	for ; t.lent > 0; t.lent-- {
		i := t.at - t.lent
		if i < 0 {
			i += len(t.ring) / t.slot
		}
		atomic.StoreUint32(t.status(i), unix.TP_STATUS_KERNEL)
	}
}

// status says whose a slot is. It is the first field of its description.
func (t *Tap) status(slot int) *uint32 { return (*uint32)(unsafe.Pointer(&t.ring[slot*t.slot])) }

// next takes a packet from the ring, nil if it has been cut.
func (t *Tap) next() (packet []byte, ok bool) {
	if atomic.LoadUint32(t.status(t.at))&unix.TP_STATUS_USER == 0 {
		return nil, false
	}
	slot := t.ring[t.at*t.slot:][:t.slot]
	h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&slot[0]))
	t.lent++
	if t.at++; t.at == len(t.ring)/t.slot {
		t.at = 0
	}
	if h.Snaplen < h.Len || int(h.Net)+int(h.Snaplen) > len(slot) {
		return nil, true
	}
	return slot[h.Net:][:h.Snaplen:h.Snaplen], true
}

// decode lays out a whole packet.
func (t *Tap) decode(d *Datagram, p []byte) bool {
	var local, remote netip.Addr
	header, at, total := inet.IPv6Len, 6, 0
	switch {
	case len(p) > inet.IPv4Len && p[0]>>4 == 4:
		header, at, total = int(p[0]&15)*4, 9, int(binary.BigEndian.Uint16(p[2:]))
		if header < inet.IPv4Len || header >= total || total > len(p) || inet.Fold(inet.Sum(p[:header], 0)) != 0 {
			return false
		}
		local, remote = netip.AddrFrom4([4]byte(p[16:])), netip.AddrFrom4([4]byte(p[12:]))
	case len(p) > inet.IPv6Len && p[0]>>4 == 6:
		total = header + int(binary.BigEndian.Uint16(p[4:]))
		if header >= total || total > len(p) {
			return false
		}
		local, remote = t.scoped([16]byte(p[24:])), t.scoped([16]byte(p[8:]))
	default:
		return false
	}
	*d = Datagram{
		Local: netip.AddrPortFrom(local, 0), Remote: netip.AddrPortFrom(remote, 0),
		Header: p[:header:header], ProtocolAt: at, Payload: p[header:total:total],
		Buffer: p[:total:total], At: header,
	}
	return true
}

// scoped gives a link-local address the device it is local to.
func (t *Tap) scoped(b [16]byte) netip.Addr {
	a := netip.AddrFrom16(b)
	if a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() {
		return a.WithZone(t.zone)
	}
	return a
}

// Close closes the tap. Another goroutine may still read what it was handed out: the memory goes with
// its next TryReceive, which returns os.ErrClosed.
func (t *Tap) Close() error {
	err := t.file.Close()
	t.unmap()
	return err
}

// unmap gives the ring back, unless somebody uses it or it was given back before. The socket itself goes
// only with it.
func (t *Tap) unmap() bool {
	if t.state.CompareAndSwap(ringIdle, ringClosed) {
		unix.Munmap(t.ring)
	}
	return t.state.Load() == ringClosed
}
