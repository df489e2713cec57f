package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/internal/wire"
	"espalier/ipsec"
	"espalier/xfrm"
)

// Pair describes the SAs between the hosts in both directions, for one address family.
type Pair struct {
	V6        bool
	Tunnel    bool
	UDP       bool
	ESN       bool
	AnyFamily bool   // tunnel mode: not only packets of the tunnel's own family
	KeyBits   int    // 128, 192 or 256; 0 is 256
	ICVBits   int    // 0 is 128
	Window    int    // inbound; 0 is 64
	SPI       uint32 // of A→B; B→A has the next. 0 is 0x1000
	Reqid     uint32 // of A→B; B→A has the next. 0 is the SPI
	Software  bool   // asks for no offload
}

// Script are the commands for one host: its two SAs (inbound first) and three policies. The
// keys are derived from the SPI, for the sake of witnesses; they protect nothing.
func (l *Lab) Script(h *Host, p Pair) string {
	return l.States(h, p) + l.Policies(h, p)
}

// Ends are the addresses of the pair.
func (p Pair) Ends() (a, b netip.Addr) {
	if p.V6 {
		return A6, B6
	}
	return A4, B4
}

func (p Pair) spi() uint32 {
	if p.SPI == 0 {
		return 0x1000
	}
	return p.SPI
}

// Key of one direction, salt included.
func (p Pair) Key(spi uint32) []byte {
	bits := p.KeyBits
	if bits == 0 {
		bits = 256
	}
	key := make([]byte, bits/8+4)
	for i := range key {
		key[i] = byte(uint32(i)*7 + spi*31 + 1)
	}
	return key
}

// SA is one direction as the sender sees it.
type SA struct {
	Src, Dst   netip.Addr
	SPI, Reqid uint32
	Key        []byte
}

// ID is how a SAD knows the SA.
func (s SA) ID() xfrm.StateID {
	return xfrm.StateID{Src: s.Src, Dst: s.Dst, Proto: unix.IPPROTO_ESP, SPI: ipsec.SPI(s.SPI)}
}

// SAs are both directions, A→B first.
func (p Pair) SAs() [2]SA {
	a, b := p.Ends()
	spi, reqid := p.spi(), p.Reqid
	if reqid == 0 {
		reqid = spi
	}
	return [2]SA{{a, b, spi, reqid, p.Key(spi)}, {b, a, spi + 1, reqid + 1, p.Key(spi + 1)}}
}

// States are the commands for the SAs alone.
func (l *Lab) States(h *Host, p Pair) string { return l.Inbound(h, p) + l.Outbound(h, p) }

// Inbound is the command for the SA by which h receives.
func (l *Lab) Inbound(h *Host, p Pair) string {
	in, _ := l.of(h, p)
	return l.state(p, in, "in")
}

// Outbound is the command for the SA by which h sends.
func (l *Lab) Outbound(h *Host, p Pair) string {
	_, out := l.of(h, p)
	return l.state(p, out, "out")
}

// Delete are the commands that take the SAs out again.
func (l *Lab) Delete(p Pair) string {
	var s strings.Builder
	for _, x := range p.SAs() {
		fmt.Fprintf(&s, "ip xfrm state delete src %s dst %s proto esp spi %#x\n", x.Src, x.Dst, x.SPI)
	}
	return s.String()
}

// of are the pair's SAs as h sees them.
func (l *Lab) of(h *Host, p Pair) (in, out SA) {
	sas := p.SAs()
	if h == l.B {
		return sas[0], sas[1]
	}
	return sas[1], sas[0]
}

func (l *Lab) state(p Pair, x SA, dir string) string {
	var s strings.Builder
	mode, icv, window := "transport", p.ICVBits, p.Window
	if p.Tunnel {
		mode = "tunnel"
	}
	if icv == 0 {
		icv = 128
	}
	if window == 0 {
		window = 64
	}
	fmt.Fprintf(&s, "ip xfrm state add src %s dst %s proto esp spi %#x reqid %#x mode %s aead 'rfc4106(gcm(aes))' 0x%x %d",
		x.Src, x.Dst, x.SPI, x.Reqid, mode, x.Key, icv)
	if p.AnyFamily {
		s.WriteString(" flag af-unspec")
	}
	if p.ESN {
		s.WriteString(" flag esn")
	}
	if dir == "in" || p.ESN { // with ESN, kernels before 6.10 want a window for sending too
		fmt.Fprintf(&s, " replay-window %d", window)
	}
	if p.UDP {
		s.WriteString(" encap espinudp 4500 4500 0.0.0.0")
	}
	if !p.Software {
		fmt.Fprintf(&s, " offload dev %s dir %s", l.Device, dir)
	}
	s.WriteString("\n")
	return s.String()
}

// Policies are the commands for the policies alone.
func (l *Lab) Policies(h *Host, p Pair) string {
	var s strings.Builder
	in, out := l.of(h, p)
	mode := "transport"
	if p.Tunnel {
		mode = "tunnel"
	}
	for _, x := range []struct {
		SA
		dir string
	}{{out, "out"}, {in, "in"}, {in, "fwd"}} {
		fmt.Fprintf(&s, "ip xfrm policy add src %s dst %s dir %s tmpl src %s dst %s proto esp reqid %#x mode %s\n",
			x.Src, x.Dst, x.dir, x.Src, x.Dst, x.Reqid, mode)
	}
	return s.String()
}

// Program installs the pair on both hosts.
func (l *Lab) Program(p Pair) {
	for _, h := range l.Hosts() {
		h.Batch(l.Script(h, p))
	}
}

// Classifier takes everything between the hosts' addresses for protected.
func Classifier() wire.Classifier {
	var c wire.Classifier
	for _, ends := range [][2]netip.Addr{{A4, B4}, {B4, A4}, {A6, B6}, {B6, A6}} {
		src, dst := ends[0], ends[1]
		c.Protected = append(c.Protected, ipsec.Selector{Src: netip.PrefixFrom(src, src.BitLen()), Dst: netip.PrefixFrom(dst, dst.BitLen())})
		c.Encaps = append(c.Encaps, wire.Ends{Src: netip.AddrPortFrom(src, 4500), Dst: netip.AddrPortFrom(dst, 4500)})
	}
	return c
}

// Watch taps the cable at the end of h, with Classifier as the judge.
func (l *Lab) Watch(h *Host, save *wire.PcapWriter) *wire.Watcher {
	h.t.Helper()
	var w *wire.Watcher
	err := h.Do(func() (err error) {
		w, err = wire.Watch(l.Device, Classifier(), save)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return w
}
