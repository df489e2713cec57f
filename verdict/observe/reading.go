package observe

import (
	"context"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/internal/niccount"
	"espalier/ipsec"
	"espalier/verdict"
	"espalier/xfrm"
)

// reading is the SAD, and what the devices of its SAs had counted just before and just after it was
// read.
type reading struct {
	at     time.Time
	states []*xfrm.State
	ports  [2]map[int]port // by ifindex
	cpu    [2]espCalls
	drops  []ipsec.DropCount
}

// read reads the SAD. Of devices it asks those that known names, and those of the SAs: as they are not
// known before the SAD has been read, it may have to be read twice. Where traffic is slow it tries to find a
// moment in which nothing passes.
func (o *Observer) read(ctx context.Context, known map[int]port) (*reading, error) {
	asked := map[int]bool{}
	for index := range known {
		asked[index] = true
	}
	tries := 0
	for {
		r := &reading{}
		r.ports[0], r.cpu[0] = o.ports(asked), o.cpu.read()
		if err := o.settle(ctx, asked); err != nil {
			return nil, err
		}
		r.at = time.Now()
		var err error
		if r.states, err = o.states(ctx); err != nil {
			return nil, err
		}
		if err := o.settle(ctx, asked); err != nil {
			return nil, err
		}
		r.ports[1], r.cpu[1] = o.ports(asked), o.cpu.read()
		added := false
		for _, s := range r.states {
			if s.Offload != nil && !o.userspace && !asked[int(s.Offload.Ifindex)] {
				asked[int(s.Offload.Ifindex)], added = true, true
			}
		}
		if few := r.passed(); few > 0 && few <= fewPackets && tries < quietTries && len(r.states) <= manyStates {
			tries++
			continue
		}
		if !added {
			r.drops = o.drops(ctx)
			return r, nil
		}
	}
}

const (
	// fewPackets pass at most while the SAD is read where it is worth while to wait for none to.
	fewPackets = 8
	quietTries = 4
)

// passed is how many packets devices counted as encrypted or decrypted while the SAD was read.
func (r *reading) passed() (n uint64) {
	for index, end := range r.ports[1] {
		begin := r.ports[0][index].counted
		n += end.counted.Sent.ESP - begin.Sent.ESP + end.counted.Received.ESP - begin.Received.ESP
	}
	return n
}

// settle lets packets arrive that are under way between the SAs and the counters of devices.
func (o *Observer) settle(ctx context.Context, devices map[int]bool) error {
	if len(devices) == 0 && o.cpu == nil {
		return nil
	}
	return sleep(ctx, underWay)
}

// states are those of ESP, without their keys.
func (o *Observer) states(ctx context.Context) (states []*xfrm.State, err error) {
	for s, err := range o.sad.States(ctx, xfrm.StateFilter{}) {
		if err != nil {
			return nil, err
		}
		s.WipeKeys()
		states = append(states, s)
	}
	return states, nil
}

// port is a network device as it was at one moment.
type port struct {
	name, kind, lower string
	real              string // the device that does the work: of a bond its active port
	driver            string
	up, carrier       bool
	counted           verdict.Reading
	counts            bool // what it encrypts
	problem           string
}

func (o *Observer) ports(indices map[int]bool) map[int]port {
	all := make(map[int]port, len(indices))
	for index := range indices {
		if p, there := o.port(index); there {
			all[index] = p
		}
	}
	return all
}

// port asks a device, unless it has gone.
func (o *Observer) port(index int) (port, bool) {
	link, err := o.links.LinkByIndex(index)
	if err != nil {
		return port{}, false
	}
	p := o.identify(link)
	p.up = link.Attrs().RawFlags&iffUp != 0
	p.carrier = link.Attrs().RawFlags&iffLowerUp != 0
	if stats := link.Attrs().Statistics; stats != nil {
		p.counted.Sent.Link, p.counted.Received.Link = stats.TxPackets, stats.RxPackets
		p.counted.Sent.Lost = stats.TxDropped + stats.TxErrors + o.queueDrops(link)
	}
	if p.real == "" {
		return p, true
	}
	counters, err := o.eth.Stats(p.real)
	if err != nil && !isUnsupported(err) {
		p.problem = err.Error()
		return p, true
	}
	names := niccount.Of(p.driver)
	sent, hasSent := counters[names.Encrypted]
	received, hasReceived := counters[names.Decrypted]
	p.counts = hasSent && hasReceived
	p.counted.Sent.ESP, p.counted.Received.ESP = sent, received
	p.counted.Sent.Dropped, p.counted.Received.Dropped = counters[names.TxDropped], counters[names.RxDropped]
	return p, true
}

// identify tells what a link is, and which device does its work.
func (o *Observer) identify(link netlink.Link) port {
	p := port{name: link.Attrs().Name, kind: link.Type(), real: link.Attrs().Name}
	if p.kind == "device" || p.kind == "tuntap" {
		p.kind = ""
	}
	if parent := link.Attrs().ParentIndex; parent != 0 {
		if below, err := o.links.LinkByIndex(parent); err == nil {
			p.lower = below.Attrs().Name
		}
	}
	if bond, ok := link.(*netlink.Bond); ok {
		p.real = ""
		if active, err := o.links.LinkByIndex(bond.ActiveSlave); err == nil {
			p.real, p.lower = active.Attrs().Name, active.Attrs().Name
		}
	}
	if p.real != "" {
		p.driver, _ = o.eth.DriverName(p.real) // a device need not have one
	}
	return p
}

// queueDrops is how many packets the queueing disciplines of a link have dropped.
func (o *Observer) queueDrops(link netlink.Link) (n uint64) {
	queues, err := o.links.QdiscList(link)
	if err != nil {
		return 0
	}
	for _, q := range queues {
		if a := q.Attrs(); a.Parent == netlink.HANDLE_ROOT && a.Statistics != nil && a.Statistics.Queue != nil {
			n += uint64(a.Statistics.Queue.Drops)
		}
	}
	return n
}
