package boot

import (
	"errors"
	"time"
)

// Rotation is a file of tunnels whose SAs this host, as the coordinator, has to replace in time.
type Rotation struct {
	File      string        `json:"file"`                // absolute
	Arguments []string      `json:"arguments,omitempty"` // of `espalier rotate`: how hosts are reached
	Period    time.Duration `json:"period"`              // how often to look whether it is due; nanoseconds
}

// Pace is how fast an SA uses itself up.
type Pace struct {
	Every         time.Duration // it is to be replaced after; 0: never by time
	Share         float64       // of its sequence numbers, 0 to 1; it is to be replaced then
	ESN           bool          // it has 2^64 sequence numbers, else 2^32
	BitsPerSecond uint64        // of its device; 0: not known, taken for 100 Gb/s
}

// Period is how often to look whether SAs are due so that none is used up between two looks: at line
// rate and with as much margin again.
func Period(paces []Pace) time.Duration { return 0 }

// SetRotation has `espalier rotate --due` run at the shortest period of all rotations, by a timer. A
// rotation of the same file is replaced.
func (p *Place) SetRotation(r Rotation) error { return errors.ErrUnsupported }

// DropRotation is the reverse of SetRotation; with the last one the timer goes.
func (p *Place) DropRotation(file string) error { return errors.ErrUnsupported }

// Rotations are those that were set: what `espalier rotate --due` without a file looks at.
func (p *Place) Rotations() ([]Rotation, error) { return nil, errors.ErrUnsupported }
