package outage

import (
	"net/netip"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Outage is a change of a link that offloaded SAs are, or were, on.
type Outage struct {
	Device string // name of the network device
	State  LinkState
	Lost   []SA // the offloaded SAs that are gone; of Down and Gone, and may be empty
	Kept   []SA // those that are still on the device
}

// LinkState is what has become of a link.
type LinkState uint8

const (
	Down      LinkState = iota // it was set down: its offloaded SAs are gone
	Gone                       // the device was removed, or moved to another network namespace
	Up                         // it is up again; SAs do not come back by themselves
	NoCarrier                  // it cannot send or receive, but keeps its SAs
	Carrier                    // its carrier is back
)

func (s LinkState) String() string {
	return [...]string{"down", "gone", "up", "no-carrier", "carrier"}[s]
}

// SA is an offloaded SA, as far as it takes to tell it from others.
type SA struct {
	Src, Dst netip.Addr
	Proto    uint8
	SPI      ipsec.SPI
	Mark     xfrm.Mark // the zero Mark: none
	Reqid    uint32
	Mode     xfrm.Mode
	Dir      xfrm.StateDir // that of the offload
}

// identity is what tells SAs apart in the SAD.
type identity struct {
	dst   netip.Addr
	proto uint8
	spi   ipsec.SPI
	mark  xfrm.Mark
}

func identityOf(id xfrm.StateID) identity {
	return identity{id.Dst, id.Proto, id.SPI, markOf(id.Mark)}
}

func markOf(m *xfrm.Mark) xfrm.Mark {
	if m == nil {
		return xfrm.Mark{}
	}
	return *m
}

func saOf(s *xfrm.State) SA {
	dir := xfrm.StateDirOut
	if s.Offload.Flags&xfrm.OffloadInbound != 0 {
		dir = xfrm.StateDirIn
	}
	return SA{
		Src: s.Src, Dst: s.Dst, Proto: s.Proto, SPI: s.SPI, Mark: markOf(s.Mark),
		Reqid: s.Reqid, Mode: s.Mode, Dir: dir,
	}
}
