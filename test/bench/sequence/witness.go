package sequence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
)

// Witness reads the ESP headers of all packets that cross one end of the cable, both ways, from a ring
// that the kernel fills (TPACKET_V3, packet_mmap in the kernel's documentation). Super packets cross
// the cable whole: the kernel tells their segment size in a virtio_net_hdr before each packet.
type Witness struct {
	fd   int
	ring []byte
	quit atomic.Bool
	done chan error

	mu        sync.Mutex
	sequences sequences
	unread    uint64 // packets whose headers could not be read
}

const (
	blockLen  = 1 << 20 // bytes, more than any packet has
	blocks    = 64
	frameLen  = 1 << 11 // means nothing but that it divides a block
	retire    = 20      // ms until a block is handed over that is not full
	vnetLen   = 10      // struct virtio_net_hdr, the segment size at 4
	vnetGSO   = 1
	vnetSize  = 4
	etherLen  = 14
	snapESP   = etherLen + 60 + espLen // with the longest IPv4 header
	snapWhole = etherLen + 1<<16
)

// Watch begins to watch the device, in the network namespace of the calling thread.
func Watch(device string) (*Witness, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	w := &Witness{fd: fd, done: make(chan error, 1), sequences: make(sequences)}
	if err := w.setUp(dev.Index); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", device, err), w.close())
	}
	go func() { w.done <- w.run() }()
	return w, nil
}

func (w *Witness) setUp(index int) error {
	// Of ESP the headers, of UDP all: a super packet has headers everywhere.
	const etherTypeAt, protocolAt = 12, etherLen + 9
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: etherTypeAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: protocolAt},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: inet.ProtoESP, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: snapESP},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: inet.ProtoUDP, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K},
		{Code: unix.BPF_RET | unix.BPF_K, K: snapWhole},
	}
	if err := unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}); err != nil {
		return os.NewSyscallError("SO_ATTACH_FILTER", err)
	}
	for _, o := range []struct {
		name       string
		opt, value int
	}{{"PACKET_VERSION", unix.PACKET_VERSION, unix.TPACKET_V3}, {"PACKET_VNET_HDR", unix.PACKET_VNET_HDR, 1}} {
		if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, o.opt, o.value); err != nil {
			return os.NewSyscallError(o.name, err)
		}
	}
	err := unix.SetsockoptTpacketReq3(w.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq3{
		Block_size: blockLen, Block_nr: blocks, Frame_size: frameLen, Frame_nr: blocks * (blockLen / frameLen), Retire_blk_tov: retire,
	})
	if err != nil {
		return os.NewSyscallError("PACKET_RX_RING", err)
	}
	if w.ring, err = unix.Mmap(w.fd, 0, blocks*blockLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return os.NewSyscallError("mmap", err)
	}
	// Bound last: the protocol turns it on.
	err = unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8, Ifindex: index})
	return os.NewSyscallError("bind", err)
}

// run reads block after block. Once it is told to quit it goes on until nothing more comes.
func (w *Witness) run() error {
	for i := 0; ; {
		block := w.ring[i*blockLen:][:blockLen]
		head := (*unix.TpacketHdrV1)(unsafe.Pointer(&block[unsafe.Offsetof(unix.TpacketBlockDesc{}.Hdr)]))
		if atomic.LoadUint32(&head.Block_status)&unix.TP_STATUS_USER != 0 {
			w.read(block, int(head.Offset_to_first_pkt), int(head.Num_pkts))
			atomic.StoreUint32(&head.Block_status, unix.TP_STATUS_KERNEL)
			i = (i + 1) % blocks
			continue
		}
		last := w.quit.Load()
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, 5*retire)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if n == 0 && last {
			return nil
		}
	}
}

// read takes the packets of a block, the first of which is at an offset.
func (w *Witness) read(block []byte, at, count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range count {
		head := (*unix.Tpacket3Hdr)(unsafe.Pointer(&block[at]))
		packet := block[at+int(head.Net) : at+int(head.Mac)+int(head.Snaplen)]
		size := 0
		if vnet := block[at+int(head.Mac)-vnetLen:]; vnet[vnetGSO] != 0 {
			size = int(binary.NativeEndian.Uint16(vnet[vnetSize:]))
		}
		if !espHeaders(packet, size, w.sequences.see) {
			w.unread++
		}
		at += int(head.Next_offset)
	}
}

// SoFar is what has been seen.
func (w *Witness) SoFar() Totals {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sequences.totals()
}

// Testimony is what a witness has to say in the end.
type Testimony struct {
	Totals
	Unread uint64
	Lost   uint64 // by the witness itself
}

// Stop ends the watching once what has arrived by now is read.
func (w *Witness) Stop() (Testimony, error) {
	w.quit.Store(true)
	err := <-w.done
	t := Testimony{Totals: w.SoFar(), Unread: w.unread}
	stats, statsErr := unix.GetsockoptTpacketStatsV3(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if statsErr == nil {
		t.Lost = uint64(stats.Drops)
	}
	return t, errors.Join(err, os.NewSyscallError("PACKET_STATISTICS", statsErr), w.close())
}

func (w *Witness) close() error {
	var err error
	if w.ring != nil {
		err = unix.Munmap(w.ring)
	}
	return errors.Join(err, unix.Close(w.fd))
}
