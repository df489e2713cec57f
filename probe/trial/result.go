package trial

import (
	"fmt"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
	"espalier/xfrm/client"
)

// Outcome of a case.
type Outcome string

const (
	Offloaded Outcome = "offloaded" // read back as offloaded to the device, as asked
	Software  Outcome = "software"  // accepted, and read back without offload
	Otherwise Outcome = "otherwise" // accepted, and read back as offloaded in another way than asked
	Refused   Outcome = "refused"
	Untried   Outcome = "untried" // the trial was cut short
)

// Tried is a case and what came of it.
type Tried struct {
	Case
	Outcome Outcome `json:"outcome"`
	Errno   string  `json:"errno,omitempty"`   // of a refusal: "EINVAL"
	Message string  `json:"message,omitempty"` // in the kernel's words; for Otherwise in ours
}

// Result of a trial on one device.
type Result struct {
	Device string  `json:"device"`
	Driver string  `json:"driver,omitempty"`
	Cases  []Tried `json:"cases"`
	// CleanedUp is how many SAs of a trial that was killed were found and deleted.
	CleanedUp int `json:"cleaned_up,omitempty"`
}

// refused notes the engine's answer.
func (t *Tried) refused(e *client.Error) {
	t.Outcome, t.Message = Refused, e.Message
	switch t.Errno = unix.ErrnoName(e.Errno); {
	case e.Errno == unix.EOPNOTSUPP:
		t.Errno = "EOPNOTSUPP" // one number with ENOTSUP, which nobody says
	case t.Errno == "":
		t.Errno = fmt.Sprint(int(e.Errno))
	}
}

// readBack notes what an SA that was accepted says of its offload.
func (t *Tried) readBack(o *xfrm.Offload, ifindex int) {
	switch packet := o != nil && o.Flags&xfrm.OffloadPacket != 0; {
	case o == nil:
		t.Outcome = Software
	case int(o.Ifindex) != ifindex:
		t.Outcome, t.Message = Otherwise, fmt.Sprintf("it is offloaded to the device with index %d", o.Ifindex)
	case packet != (t.Offload == Packet):
		t.Outcome, t.Message = Otherwise, "it is offloaded in the other of the modes crypto and packet"
	case (o.Flags&xfrm.OffloadInbound != 0) != (t.Dir == In):
		t.Outcome, t.Message = Otherwise, "it is offloaded in the other direction"
	default:
		t.Outcome = Offloaded
	}
}

// words are all that was said of the case: "EINVAL: mlx5_core: Only …", "" if nothing was.
func (t *Tried) words() string {
	if t.Errno == "" || t.Message == "" {
		return t.Errno + t.Message
	}
	return t.Errno + ": " + t.Message
}
