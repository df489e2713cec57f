package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Counts of packets by kind.
type Counts struct {
	ESP       uint64 `json:"esp"`
	Cleartext uint64 `json:"cleartext"`
	Discovery uint64 `json:"neighbour_discovery"`
	Other     uint64 `json:"other"`
	Dropped   uint64 `json:"tap_dropped"` // by the tap itself: if not 0, nothing is proven
}

// Add counts a packet.
func (c *Counts) Add(k Kind) {
	*[...]*uint64{Other: &c.Other, ESP: &c.ESP, Discovery: &c.Discovery, Cleartext: &c.Cleartext}[k]++
}

// Watcher counts, and keeps if asked, the packets that cross one end of a cable.
type Watcher struct {
	file     *os.File
	classify Classifier
	save     *PcapWriter // nil: only count
	counts   [kinds]atomic.Uint64
	firstErr error
	done     chan struct{}
}

// receiveBuffer holds what arrives while the reader waits for a processor: about 100,000
// full-sized packets.
const receiveBuffer = 256 << 20

// Watch begins to watch the device, in the network namespace of the calling thread. save may
// be nil; it is written by the Watcher's goroutine alone until Stop.
func Watch(device string, c Classifier, save *PcapWriter) (*Watcher, error) {
	file, err := tap(device)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", device, err)
	}
	w := &Watcher{file: file, classify: c, save: save, done: make(chan struct{})}
	go w.run()
	return w, nil
}

func tap(device string) (*os.File, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), device)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	// Bound last: the protocol turns it on.
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: dev.Index}); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (w *Watcher) run() {
	defer close(w.done)
	buf := make([]byte, 1<<16)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				w.firstErr = err
			}
			return
		}
		pkt := buf[:n]
		if n == 0 || pkt[0]>>4 != 4 && pkt[0]>>4 != 6 { // ARP and the like
			continue
		}
		w.counts[w.classify.Classify(pkt)].Add(1)
		if w.save != nil {
			if err := w.save.Write(time.Now(), pkt); err != nil && w.firstErr == nil {
				w.firstErr = err
			}
		}
	}
}

// Counts is what has been seen so far.
func (w *Watcher) Counts() Counts {
	return Counts{
		ESP:       w.counts[ESP].Load(),
		Discovery: w.counts[Discovery].Load(),
		Cleartext: w.counts[Cleartext].Load(),
		Other:     w.counts[Other].Load(),
	}
}

// Stop ends the watching once what has arrived by now is counted, and returns the counts.
func (w *Watcher) Stop() (Counts, error) {
	if err := w.drain(); err != nil {
		return w.Counts(), err
	}
	dropped, err := w.dropped()
	c := w.Counts()
	c.Dropped = dropped
	return c, errors.Join(w.firstErr, err, w.file.Close())
}

// drain has the reader take what waits. A deadline in the past would cut that short, so
// it is set a little ahead until nothing more comes.
func (w *Watcher) drain() error {
	for last := w.total(); ; {
		time.Sleep(30 * time.Millisecond)
		now := w.total()
		if now == last {
			break
		}
		last = now
	}
	if err := w.file.SetReadDeadline(time.Now()); err != nil {
		return err
	}
	<-w.done
	return nil
}

func (w *Watcher) total() (n uint64) {
	for i := range w.counts {
		n += w.counts[i].Load()
	}
	return n
}

func (w *Watcher) dropped() (uint64, error) {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var stats *unix.TpacketStats
	cerr := raw.Control(func(fd uintptr) {
		stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err := errors.Join(cerr, err); err != nil {
		return 0, fmt.Errorf("read the tap's statistics: %w", err)
	}
	return uint64(stats.Drops), nil
}
