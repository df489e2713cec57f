package guest

import (
	"net/rpc"
	"os"
	"sync"

	"espalier/internal/wire"
	"espalier/test/lab"
)

// ControlPort is the name of the virtio-serial port by which tests in the VM call the process
// that runs it: independent of any network.
const ControlPort = "control"

// Outside is the test process outside of the VM, as tests inside see it. What it knows of the
// wire no kernel under test can colour.
type Outside struct{ rpc *rpc.Client }

// OutsideService is the name under which the methods of a suite's Outside are served.
const OutsideService = "Outside"

// Seen is what has come out of the VM, and what was carried a second time.
type Seen struct {
	wire.Counts
	ToVM, FromVM int // packets carried twice
}

// CallOutside opens the way to the outside. There is one, for all tests and for good.
var CallOutside = sync.OnceValues(func() (*Outside, error) {
	f, err := openPort(ControlPort, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &Outside{rpc.NewClient(f)}, nil
})

// Apply programs the userspace device outside: see lab.Apply.
func (o *Outside) Apply(script string) error {
	return o.rpc.Call(OutsideService+".Apply", script, new(struct{}))
}

// Drops are those of the userspace device outside, by reason, since it was started.
func (o *Outside) Drops() (drops map[string]uint64, err error) {
	err = o.rpc.Call(OutsideService+".Drops", struct{}{}, &drops)
	return drops, err
}

// Packets is how many the device outside has sent or received by an SA.
func (o *Outside) Packets(sa lab.SA) (n uint64, err error) {
	err = o.rpc.Call(OutsideService+".Packets", sa, &n)
	return n, err
}

// Ping reports whether the VM answers an echo request from outside.
func (o *Outside) Ping(address string) (answered bool, err error) {
	err = o.rpc.Call(OutsideService+".Ping", address, &answered)
	return answered, err
}

// Replay has the next n ESP packets of each direction carried twice.
func (o *Outside) Replay(n int) error {
	return o.rpc.Call(OutsideService+".Replay", n, new(struct{}))
}

// Seen gives what was carried so far.
func (o *Outside) Seen() (seen Seen, err error) {
	err = o.rpc.Call(OutsideService+".Seen", struct{}{}, &seen)
	return seen, err
}
