package tunnel

import "time"

// Rotation is when SAs are due to be replaced: at whichever comes first.
type Rotation struct {
	// Every is a time that is no longer than any limit of the file or sequence numbers last at line
	// rate. 0: never by time; nanoseconds.
	Every time.Duration `json:"every,omitempty"`
	Share float64       `json:"share,omitempty"` // of the sequence numbers, 0 to 1
}
