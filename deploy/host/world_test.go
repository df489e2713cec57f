package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"espalier/deploy/boot"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/xfrm"
)

// world is hosts with their SADs and SPDs, what is between them, and the time.
type world struct {
	t     testing.TB
	dir   string
	now   time.Duration
	hosts []*node

	cut      bool     // no packet arrives
	chatter  bool     // hosts have something to say to each other, each second
	clear    int      // packets that were sent in clear
	unopened []string // packets that came to a host that is up, and has no SA for them
	lost     int      // packets of an application that did not arrive while the way was open
	ticking  bool
	tick     time.Duration // how often keepers look
}

// node is a host: its engine, its clock, what lasts.
type node struct {
	*world
	name    string
	addr    netip.Addr
	host    *Host
	sas     []*xfrm.State // oldest first
	spd     []*xfrm.Policy
	boot    string
	jump    time.Duration // of its clock
	set     time.Duration // of the time of day
	keeps   bool          // the keeper runs
	refuse  func(op, what string) error
	full    bool // the disk
	writes  int
	guard   []boot.Pair
	guarded int // how often what lasts was changed
	held    []uint16
	lost    []string
	index   uint32
	used    map[*xfrm.Policy]uint64 // how often policies have decided
	taken   uint8                   // the protocol that nothing can be sent by
	deaf    uint8                   // the protocol by which nothing comes
	told    bool                    // that all have finished the last change
}

func newWorld(t testing.TB, n int) *world {
	base := "/dev/shm" // files are synced there for nothing
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "espalier-host")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, now: time.Hour, tick: time.Second, chatter: true}
	for i := range n {
		nd := &node{world: w, name: fmt.Sprint("host", i), addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), boot: "first", keeps: true, used: map[*xfrm.Policy]uint64{}}
		nd.restart()
		w.hosts = append(w.hosts, nd)
	}
	return w
}

// restart makes a new Host over what is on disk.
func (n *node) restart() {
	n.host = New(Config{
		Dir: filepath.Join(n.dir, n.name, "tunnels"), Keys: filepath.Join(n.dir, n.name), Clock: n, Boot: n,
		Open: func(name string) (Engine, error) { return n, n.refused("open", name) },
		Send: func(_ context.Context, f Flow) error {
			if n.taken != 0 && f.Protocol == n.taken {
				return &portTaken{f.SrcPort}
			}
			n.send(f, false)
			return nil
		},
		Addresses: func() ([]netip.Addr, error) { return []netip.Addr{n.addr}, nil },
		Keeper:    func() error { return n.refused("keeper", "") },
		Write: func(path string, data []byte) error {
			n.writes++
			if err := n.refused("write", fmt.Sprint(n.writes)); err != nil {
				return err
			}
			if n.full {
				return errors.New("no space left on device")
			}
			if bytes.Contains(data, []byte("key")) {
				n.t.Error("there is a key in the journal")
			}
			os.MkdirAll(filepath.Dir(path), 0o700)
			return os.WriteFile(path, data, 0o600)
		},
	})
}

func (n *node) refused(op, what string) error {
	if n.refuse == nil {
		return nil
	}
	return n.refuse(op, what)
}

// The clock.

func (n *node) Now() time.Duration { return n.now + n.jump }
func (n *node) BootID() string     { return n.boot }
func (n *node) Wall() time.Time    { return time.Unix(0, 0).Add(n.now + n.set) }
func (n *node) Sleep(ctx context.Context, d time.Duration) error {
	n.advance(d)
	return ctx.Err()
}

// What lasts.

func (n *node) Can() (bool, string) { return true, "" }

func (n *node) Install(pairs []boot.Pair) error {
	if err := n.refused("guard", ""); err != nil {
		return err
	}
	n.guard = pairs
	n.guarded++
	return nil
}

func (n *node) Hold(_ context.Context, ports []uint16) error { n.held = ports; return nil }

// The time. Keepers look once a second, and applications say something.

func (w *world) advance(d time.Duration) {
	if w.ticking { // somebody's wait within a round
		w.now += d
		return
	}
	for end := w.now + d; w.now < end; {
		next := min(w.now.Truncate(w.tick)+w.tick, end)
		w.now = next
		if next%w.tick == 0 {
			w.second()
		}
	}
}

func (w *world) second() {
	w.ticking = true
	defer func() { w.ticking = false }()
	for _, n := range w.hosts {
		if n.keeps {
			n.host.Tick(context.Background())
		}
	}
	for _, n := range w.hosts {
		for _, m := range w.hosts {
			if w.chatter && n != m && !n.send(Flow{Src: n.addr, Dst: m.addr, Protocol: inet.ProtoUDP, DstPort: 7}, true) && !w.cut {
				w.lost++
			}
		}
	}
}

// The engine.

func (n *node) Close() error { return nil }

func (n *node) find(id xfrm.StateID) int {
	return slices.IndexFunc(n.sas, func(s *xfrm.State) bool { return s.Dst == id.Dst && s.SPI == id.SPI && s.Proto == id.Proto })
}

func (n *node) AddState(_ context.Context, s *xfrm.State) error {
	if err := n.refused("add SA", fmt.Sprint(len(n.sas))); err != nil {
		return err
	}
	if n.find(s.ID()) >= 0 {
		return ipsec.ErrExist
	}
	own := *s
	own.AEAD = &xfrm.AEAD{Name: s.AEAD.Name, ICVBits: s.AEAD.ICVBits, Key: ipsec.NewKey(bytes.Clone(s.AEAD.Key.ExposeSecretBytes()))}
	own.Current.AddTime = uint64(n.Wall().Unix())
	n.sas = append(n.sas, &own)
	return nil
}

func (n *node) DeleteState(_ context.Context, id xfrm.StateID) error {
	if err := n.refused("delete SA", id.SPI.String()); err != nil {
		return err
	}
	i := n.find(id)
	if i < 0 {
		return ipsec.ErrNotExist
	}
	n.sas = slices.Delete(n.sas, i, i+1)
	return nil
}

func (n *node) GetState(_ context.Context, id xfrm.StateID) (*xfrm.State, error) {
	if err := n.refused("get SA", id.SPI.String()); err != nil {
		return nil, err
	}
	i := n.find(id)
	if i < 0 {
		return nil, ipsec.ErrNotExist
	}
	s := *n.sas[i]
	s.AEAD = &xfrm.AEAD{Name: s.AEAD.Name, Key: ipsec.NewKey(bytes.Clone(s.AEAD.Key.ExposeSecretBytes()))}
	return &s, nil
}

func (n *node) policy(id xfrm.PolicyID) int {
	return slices.IndexFunc(n.spd, func(p *xfrm.Policy) bool { return keyOf(p.ID()) == keyOf(id) })
}

func (n *node) AddPolicy(_ context.Context, p *xfrm.Policy) error {
	if err := n.refused("add policy", p.ID().String()); err != nil {
		return err
	}
	if n.policy(p.ID()) >= 0 {
		return ipsec.ErrExist
	}
	own := *p
	if own.Index == 0 {
		n.index += 8
		own.Index = n.index + uint32(own.Dir)
	}
	n.spd = append(n.spd, &own)
	return nil
}

func (n *node) UpdatePolicy(_ context.Context, p *xfrm.Policy) error {
	if err := n.refused("update policy", p.ID().String()); err != nil {
		return err
	}
	own := *p
	i := n.policy(p.ID())
	own.Index = n.spd[i].Index
	n.spd[i] = &own
	return nil
}

func (n *node) DeletePolicy(_ context.Context, id xfrm.PolicyID) error {
	if err := n.refused("delete policy", id.String()); err != nil {
		return err
	}
	i := n.policy(id)
	if i < 0 {
		return ipsec.ErrNotExist
	}
	n.spd = slices.Delete(n.spd, i, i+1)
	return nil
}

func (n *node) GetPolicy(_ context.Context, id xfrm.PolicyID) (*xfrm.Policy, error) {
	if err := n.refused("get policy", id.String()); err != nil {
		return nil, err
	}
	i := n.policy(id)
	if i < 0 {
		return nil, ipsec.ErrNotExist
	}
	p := *n.spd[i]
	p.Current.UseTime = n.used[n.spd[i]]
	return &p, nil
}

func (n *node) Policies(context.Context) iter.Seq2[*xfrm.Policy, error] {
	return func(yield func(*xfrm.Policy, error) bool) {
		if err := n.refused("list policies", ""); err != nil {
			yield(nil, err)
			return
		}
		for _, p := range n.spd {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// The packets.

func (n *node) decide(dir xfrm.PolicyDir, f Flow) *xfrm.Policy {
	flow := ipsec.Flow{Src: f.Src, Dst: f.Dst, Protocol: f.Protocol, SrcPort: f.SrcPort, DstPort: f.DstPort}
	var best *xfrm.Policy
	for _, p := range n.spd {
		if p.Dir == dir && p.Sel.Match(&flow) && (best == nil || p.Priority < best.Priority) {
			best = p
		}
	}
	return best
}

// sender is the SA that a policy leads to: the newest, as in Linux.
func (n *node) sender(p *xfrm.Policy, dst netip.Addr) *xfrm.State {
	for _, s := range slices.Backward(n.sas) {
		if s.Reqid == p.Tmpls[0].Reqid && s.Src == n.addr && s.Dst == dst {
			return s
		}
	}
	return nil
}

// send sends a packet, and reports whether the peer has taken it. An echo request is answered.
func (n *node) send(f Flow, application bool) bool {
	peer := n.hosts[slices.IndexFunc(n.hosts, func(m *node) bool { return m.addr == f.Dst })]
	var s *xfrm.State
	if p := n.decide(xfrm.PolicyOut, f); p != nil && len(p.Tmpls) > 0 {
		if s = n.sender(p, f.Dst); s == nil {
			return false
		}
	} else {
		n.clear++
	}
	if n.cut || peer.deaf != 0 && f.Protocol == peer.deaf {
		return false
	}
	if s != nil {
		i := peer.find(s.ID())
		if i < 0 || !peer.sas[i].AEAD.Key.Equal(s.AEAD.Key) {
			n.unopened = append(n.unopened, fmt.Sprintf("%s: %s has no %s", n.now, peer.name, s.ID()))
			return false
		}
		peer.sas[i].Current.Packets++
	}
	if p := peer.decide(xfrm.PolicyIn, f); p != nil && len(p.Tmpls) > 0 {
		peer.used[p]++
		if s == nil && !p.Tmpls[0].Optional || s != nil && s.Reqid != p.Tmpls[0].Reqid {
			return false
		}
	}
	if !application && f.Protocol == inet.ProtoICMP && f.SrcPort == 8 {
		peer.send(Flow{Src: f.Dst, Dst: f.Src, Protocol: f.Protocol}, application)
	}
	return true
}

// sas of a generation, as a host has them, in words.
func (n *node) sad() (all []string) {
	for _, s := range n.sas {
		all = append(all, s.ID().String())
	}
	slices.Sort(all)
	return all
}

// policies as they are, byte for byte.
func (n *node) policies() (all []string) {
	for _, p := range n.spd {
		b, err := xfrm.EncodePolicy(p)
		if err != nil {
			n.t.Fatal(err)
		}
		all = append(all, p.ID().String()+" "+fmt.Sprintf("%x", b))
	}
	slices.Sort(all)
	return all
}

func (n *node) journal() *Journal {
	j, err := ReadJournal(n.host.cfg.Dir)
	if err != nil {
		n.t.Fatal(err)
	}
	return j
}

func (n *node) Lost([]boot.Pair, []uint16) []string { return n.lost }
