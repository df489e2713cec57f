package underlay

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// NextHop says how packets to a destination leave. With an MTU of 0 the kernel's IP layer has to know.
type NextHop struct {
	Via     netip.Addr // neighbour on the device; the destination itself, or a gateway
	Device  int        // interface index
	MTU     int        // of the device, in bytes
	Address [6]byte    // of the neighbour (Ethernet)

	check atomic.Int64 // when to ask the IP layer again, in Unix nanoseconds
}

// NextHops are what is known of where packets go. Whoever watches routes and neighbours keeps them: what
// changes has to be forgotten at once, what is missing is asked for. It is safe for concurrent use.
type NextHops struct {
	missing chan netip.Addr
	table   atomic.Pointer[map[netip.Addr]*NextHop] // replaced as a whole

	mu      sync.Mutex
	changes uint64 // how often something was forgotten
}

// Bounds of NextHops. What is beyond them goes by the IP layer.
const (
	maxNextHops = 1024
	maxMissing  = 64
)

// NewNextHops knows nothing yet.
func NewNextHops() *NextHops {
	h := &NextHops{missing: make(chan netip.Addr, maxMissing)}
	h.table.Store(&map[netip.Addr]*NextHop{})
	return h
}

// Missing are destinations that packets were sent to. Some may be known by now.
func (h *NextHops) Missing() <-chan netip.Addr { return h.missing }

// find is the next hop of a destination, nil if it is not known.
func (h *NextHops) find(to netip.Addr) *NextHop {
	hop := (*h.table.Load())[to]
	if hop == nil {
		select {
		case h.missing <- to:
		default: // it will be asked for again
		}
		return nil
	}
	return hop
}

// Known reports whether there is a next hop for a destination.
func (h *NextHops) Known(to netip.Addr) bool { return (*h.table.Load())[to] != nil }

// Changes is to be asked for before a next hop is looked up, and given to Learn.
func (h *NextHops) Changes() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changes
}

// Learn adds the next hop of a destination, unless something was forgotten since Changes was asked: then
// it may be wrong already.
func (h *NextHops) Learn(to netip.Addr, hop *NextHop, changes uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := *h.table.Load()
	if changes != h.changes || len(old) >= maxNextHops {
		return
	}
	table := maps.Clone(old)
	table[to] = hop
	h.table.Store(&table)
}

// Forget forgets the destinations that lie behind a neighbour, or all for the zero address.
func (h *NextHops) Forget(via netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes++
	table := maps.Clone(*h.table.Load())
	maps.DeleteFunc(table, func(_ netip.Addr, hop *NextHop) bool { return !via.IsValid() || hop.Via == via })
	h.table.Store(&table)
}

// checkEvery is how often packets to a next hop go by the IP layer: so the kernel notices that the
// neighbour does not answer any more, and we that a packet filter refuses them.
const checkEvery = time.Second

// due reports whether this is a packet for the IP layer.
func (h *NextHop) due(now int64) bool {
	at := h.check.Load()
	return now >= at && h.check.CompareAndSwap(at, now+int64(checkEvery))
}
