package trial

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Lifetime after which the kernel deletes an SA of a trial, should nobody else.
const Lifetime = 10 * time.Second

// The ends of the SAs: addresses for documentation, of TEST-NET-1 and TEST-NET-2 (RFC 5737) and of
// 2001:db8::/32 (RFC 3849). Out goes from the first to the second.
var ends = map[string][2]netip.Addr{
	IPv4: {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")},
	IPv6: {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:ffff::1")},
}

// sa is an SA as the journal knows it.
type sa struct {
	SPI ipsec.SPI  `json:"spi"`
	Src netip.Addr `json:"src"`
	Dst netip.Addr `json:"dst"`
}

// sa is that of c with an SPI.
func (c Case) sa(spi ipsec.SPI) sa {
	e := ends[c.Family]
	if c.Dir == In {
		e[0], e[1] = e[1], e[0]
	}
	return sa{spi, e[0], e[1]}
}

func (s sa) id() xfrm.StateID {
	return xfrm.StateID{Src: s.Src, Dst: s.Dst, Proto: unix.IPPROTO_ESP, SPI: s.SPI}
}

// is reports whether a state that was read back is s, added by the trial with this reqid.
func (s sa) is(x *xfrm.State, reqid uint32) bool {
	return x.SPI == s.SPI && x.Proto == unix.IPPROTO_ESP && x.Src == s.Src && x.Dst == s.Dst && x.Reqid == reqid
}

// state is what the kernel is asked for, with a fresh key.
//
// It does not say `dir` (XFRMA_SA_DIR): the offload does. So an ESN SA for sending can be given a
// window, which kernels before 6.10 want of every ESN SA.
func (c Case) state(s sa, reqid uint32, ifindex int) *xfrm.State {
	const saltBytes, icvBits = 4, 128
	x := &xfrm.State{
		Src: s.Src, Dst: s.Dst, Proto: unix.IPPROTO_ESP, SPI: s.SPI, Reqid: reqid,
		AEAD:         &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.RandomKey(int(c.KeyBits/8) + saltBytes), ICVBits: icvBits},
		ReplayWindow: c.Window,
		Limits:       xfrm.NoLimits,
		Offload:      &xfrm.Offload{Ifindex: int32(ifindex)},
	}
	x.Limits.HardAdd = uint64(Lifetime / time.Second)
	if c.Mode == Tunnel {
		x.Mode = xfrm.ModeTunnel
	}
	if c.ESN {
		x.Flags |= xfrm.FlagESN
		if c.Dir == Out {
			x.ReplayWindow = usualWindow
		}
	}
	if c.Dir == In {
		x.Offload.Flags |= xfrm.OffloadInbound
	}
	if c.Offload == Packet {
		x.Offload.Flags |= xfrm.OffloadPacket
	}
	return x
}
