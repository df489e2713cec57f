package tunnel

import "time"

// Rotation is when SAs are due to be replaced.
type Rotation struct {
	Every time.Duration `json:"every,omitempty"` // 0: never by time; nanoseconds
	Share float64       `json:"share,omitempty"` // of the sequence numbers, 0 to 1
}
