package probe

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"espalier/aesgcm"
)

// Speed is how fast a CPU seals packets with AES-GCM.
type Speed struct {
	Implementation string          // of package aesgcm: "vaes512", "vaes256", "std"
	Cores          int             // that the process may use; the figures are of one
	Gbps           map[int]float64 // by the bits of the key, 128 and 256: 10^9 bits of packet a second
}

// Packets as ESP has them on Ethernet: measured is the plaintext, and a batch of them is what a full
// TSO frame comes to.
const (
	measuredPacket = 1400 // bytes
	measuredBatch  = 32
	measuredTime   = 10 * time.Millisecond // for each size of key
	measuredRounds = 3                     // at least, however slow
)

// MeasureSpeed seals packets of 1400 bytes on one core for 20 ms of its time, with keys and nonces that
// are thrown away. On a machine that is busy with other things it waits its turn, and counts none of it.
func MeasureSpeed(ctx context.Context) (Speed, error) {
	s := Speed{Cores: runtime.GOMAXPROCS(0), Gbps: make(map[int]float64)}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, bits := range []int{128, 256} {
		key := make([]byte, bits/8)
		rand.Read(key) // never fails
		cipher, err := aesgcm.New(key, 16)
		if err != nil {
			return s, fmt.Errorf("measure AES-%d-GCM: %w", bits, err)
		}
		s.Implementation = cipher.Name()
		s.Gbps[bits], err = measure(ctx, cipher)
		cipher.Wipe()
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return s, err
		}
	}
	return s, nil
}

// measure takes the best of several short rounds, in time of this thread: what else the machine does
// makes rounds slow, and none of them fast.
func measure(ctx context.Context, cipher aesgcm.AEAD) (float64, error) {
	const room = measuredPacket + 16 // text and tag
	batch := make([]aesgcm.Packet, measuredBatch)
	memory := make([]byte, measuredBatch*room)
	for i := range batch {
		batch[i] = aesgcm.Packet{AAD: make([]byte, 8), Text: memory[i*room : (i+1)*room]}
	}
	var nonce uint64
	best := 0.0
	begin, err := threadTime()
	for round, now := 0, begin; err == nil && (round < measuredRounds || now-begin < measuredTime) && ctx.Err() == nil; round++ {
		before := now
		const repeats = 4
		for range repeats {
			for i := range batch {
				nonce++
				binary.BigEndian.PutUint64(batch[i].Nonce[4:], nonce)
			}
			cipher.Seal(batch)
		}
		if now, err = threadTime(); now > before {
			bits := float64(repeats * measuredBatch * measuredPacket * 8)
			best = max(best, bits/float64((now-before).Nanoseconds()))
		}
	}
	return best, err
}

// threadTime is how long this thread has run.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// speedLayer tells what is left where no NIC encrypts.
func speedLayer(s Speed, err error) Layer {
	l := Layer{Name: "CPU"}
	if err != nil {
		l.Checks = []Check{{ID: "cpu.aes-gcm", Title: "AES-GCM", Weight: Informs, Why: err.Error()}}
		return l
	}
	var parts []string
	for _, bits := range slices.Sorted(maps.Keys(s.Gbps)) {
		name, speed := fmt.Sprintf("AES-%d-GCM", bits), fmt.Sprintf("%.1f Gb/s", s.Gbps[bits])
		parts = append(parts, name+" "+speed)
		l.Checks = append(l.Checks, Check{
			ID: fmt.Sprintf("cpu.aes-%d-gcm", bits), Title: name, Answer: Yes, Weight: Informs,
			Why:      fmt.Sprintf("%s on one core of %d (%s)", speed, s.Cores, s.Implementation),
			Evidence: []Evidence{{fmt.Sprintf("measured: packets of %d bytes sealed for %v", measuredPacket, measuredTime), speed}},
		})
	}
	l.Summary = fmt.Sprintf("%s on one core of %d (%s)", strings.Join(parts, ", "), s.Cores, s.Implementation)
	return l
}
