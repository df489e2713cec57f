package lab

import (
	"fmt"
	"net/netip"
	"strings"

	"espalier/internal/wire"
	"espalier/ipsec"
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
	Src, Dst netip.Addr
	SPI      uint32
	Key      []byte
}

// SAs are both directions, A→B first.
func (p Pair) SAs() [2]SA {
	a, b := p.Ends()
	return [2]SA{{a, b, p.spi(), p.Key(p.spi())}, {b, a, p.spi() + 1, p.Key(p.spi() + 1)}}
}

// States are the commands for the SAs alone.
func (l *Lab) States(h *Host, p Pair) string {
	var s strings.Builder
	sas := p.SAs()
	in, out := sas[1], sas[0]
	if h == l.B {
		in, out = sas[0], sas[1]
	}
	for _, x := range []struct {
		SA
		dir string
	}{{in, "in"}, {out, "out"}} {
		mode, icv := "transport", p.ICVBits
		if p.Tunnel {
			mode = "tunnel"
		}
		if icv == 0 {
			icv = 128
		}
		fmt.Fprintf(&s, "ip xfrm state add src %s dst %s proto esp spi %#x reqid %#x mode %s aead 'rfc4106(gcm(aes))' 0x%x %d",
			x.Src, x.Dst, x.SPI, x.SPI, mode, x.Key, icv)
		if p.AnyFamily {
			s.WriteString(" flag af-unspec")
		}
		if p.ESN {
			s.WriteString(" flag esn")
		}
		if x.dir == "in" {
			window := p.Window
			if window == 0 {
				window = 64
			}
			fmt.Fprintf(&s, " replay-window %d", window)
		}
		if p.UDP {
			s.WriteString(" encap espinudp 4500 4500 0.0.0.0")
		}
		fmt.Fprintf(&s, " offload dev %s dir %s\n", l.Device, x.dir)
	}
	return s.String()
}

// Policies are the commands for the policies alone.
func (l *Lab) Policies(h *Host, p Pair) string {
	var s strings.Builder
	sas := p.SAs()
	in, out := sas[1], sas[0]
	if h == l.B {
		in, out = sas[0], sas[1]
	}
	mode := "transport"
	if p.Tunnel {
		mode = "tunnel"
	}
	for _, x := range []struct {
		SA
		dir string
	}{{out, "out"}, {in, "in"}, {in, "fwd"}} {
		fmt.Fprintf(&s, "ip xfrm policy add src %s dst %s dir %s tmpl src %s dst %s proto esp reqid %#x mode %s\n",
			x.Src, x.Dst, x.dir, x.Src, x.Dst, x.SPI, mode)
	}
	return s.String()
}

// Program installs the pair on both hosts.
func (l *Lab) Program(p Pair) {
	for _, h := range l.Hosts() {
		h.Batch(l.Script(h, p))
	}
}

// Watch taps the cable at the end of h. Everything between the hosts' addresses is to be
// protected.
func (l *Lab) Watch(h *Host, save *wire.PcapWriter) *wire.Watcher {
	h.t.Helper()
	var c wire.Classifier
	for _, ends := range [][2]netip.Addr{{A4, B4}, {B4, A4}, {A6, B6}, {B6, A6}} {
		src, dst := ends[0], ends[1]
		c.Protected = append(c.Protected, ipsec.Selector{Src: netip.PrefixFrom(src, src.BitLen()), Dst: netip.PrefixFrom(dst, dst.BitLen())})
		c.Encaps = append(c.Encaps, wire.Ends{Src: netip.AddrPortFrom(src, 4500), Dst: netip.AddrPortFrom(dst, 4500)})
	}
	var w *wire.Watcher
	err := h.Do(func() (err error) {
		w, err = wire.Watch(l.Device, c, save)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return w
}
