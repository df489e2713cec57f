package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"espalier/internal/inet"
	"espalier/test/lab"
)

// truth about an SA's packets, from what the verdict has no part in: the driver's own notes of its
// work, and the cable.
type truth string

const (
	theNIC     truth = "the NIC"
	theKernel  truth = "the kernel"
	both       truth = "the NIC some, the kernel the others"
	nobody     truth = "nobody: they can be read on the cable"
	unchecked  truth = "nobody: what came was passed on unchecked"
	noPackets  truth = "there are no packets"
	lostByNIC  truth = "nobody: the NIC dropped them"
	notForUs   truth = "the NIC, in vain: their ICV is wrong"
	theProcess truth = "a process, on the CPU"
	noSA       truth = "there is no SA"
	neverLeft  truth = "nobody: they never left"
)

// work is what the NIC's engine has done for an SA since it was added (nic/truth.c).
type work struct{ encrypted, untouched, refused uint64 }

// engineWork is that of an SA at one end of the cable.
func engineWork(t *testing.T, end int, direction string, spi uint32) (w work) {
	t.Helper()
	for line := range strings.Lines(read(t, "/sys/kernel/debug/labnic/truth")) {
		var e int
		var dir string
		var id uint32
		var now work
		if _, err := fmt.Sscanf(line, "%d %s 0x%x %d %d %d", &e, &dir, &id, &now.encrypted, &now.untouched, &now.refused); err != nil {
			t.Fatalf("labnic/truth: %v in %q", err, line)
		}
		if e == end && dir == direction && id == spi {
			return now
		}
	}
	return work{}
}

// truthOf an SA at one end of the NIC, when everything has come to rest. The capture is of all that
// has crossed the cable meanwhile.
func (l *nicLab) truthOf(t *testing.T, end int, sa lab.SA, out bool, cable [][]byte) truth {
	t.Helper()
	s, err := l.kernel[l.Hosts()[end]].GetState(context.Background(), sa.ID())
	if err != nil {
		return noSA
	}
	direction, moved := "in", s.Current.Packets+uint64(s.Stats.IntegrityFailed)
	if out {
		direction, moved = "out", uint64(s.Replay.OSeqHi)<<32|uint64(s.Replay.OSeq)
	}
	w := engineWork(t, end, direction, sa.SPI)
	crossed, readable := onCable(cable, sa.SPI)
	switch {
	case moved == 0 && w == work{}:
		return noPackets
	case w.untouched > 0 && out && readable > 0:
		return nobody
	case w.untouched > 0 && !out:
		return unchecked
	case out && readable > 0:
		return truth(fmt.Sprintf("not clear: %d of %d packets can be read, and the NIC says it %+v", readable, crossed, w))
	case w.refused > 0 && w.encrypted == 0 && out:
		return lostByNIC
	case w.refused > 0 && w.encrypted == 0:
		return notForUs
	case w.encrypted == moved:
		return theNIC
	case out && crossed == 0:
		return neverLeft
	case w.encrypted == 0:
		return theKernel
	case w.encrypted < moved && w.untouched+w.refused == 0:
		return both
	}
	return truth(fmt.Sprintf("not clear: %d packets, of which the NIC did %+v", moved, w))
}

// onCable counts the ESP packets of an SPI, and those in which what was sent can be read.
func onCable(packets [][]byte, spi uint32) (crossed, readable int) {
	for _, p := range packets {
		h, err := inet.Parse(p)
		if err != nil || h.Protocol != inet.ProtoESP || len(p) < h.Len+4 || binary.BigEndian.Uint32(p[h.Len:]) != spi {
			continue
		}
		crossed++
		if bytes.Contains(p, plaintext) {
			readable++
		}
	}
	return crossed, readable
}
