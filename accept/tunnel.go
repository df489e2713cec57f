package accept

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// sa is one direction between the hosts, as both have it.
type sa struct {
	src, dst *Host
	spi      uint32
	key      []byte // AES-256 and the salt of RFC 4106
}

// generation is a pair of SAs with keys of its own.
type generation struct{ sas [2]sa }

const keyBytes = 36

// newGeneration makes keys that nobody else has ever had.
func newGeneration(a, b *Host) *generation {
	return &generation{[2]sa{newSA(a, b), newSA(b, a)}}
}

func newSA(src, dst *Host) sa {
	x := sa{src: src, dst: dst, key: make([]byte, keyBytes)}
	rand.Read(x.key) // never fails (crypto/rand)
	var spi [4]byte
	rand.Read(spi[:])
	x.spi = binary.BigEndian.Uint32(spi[:])>>4 | 0x10000000 // none of those reserved, none that allocspi gives out (below 0x10000000)
	return x
}

func (x sa) id() string {
	return fmt.Sprintf("src %s dst %s proto esp spi %#08x", x.src.Address, x.dst.Address, x.spi)
}

// add is the vendor's command, with a replay window where packets are received.
func (x sa) add(h *Host, reqid uint32) string {
	dir, window := "out", ""
	if h == x.dst {
		dir, window = "in", " replay-window 64"
	}
	return fmt.Sprintf("state add %s reqid %#x mode transport aead 'rfc4106(gcm(aes))' 0x%s 128%s sel src %s dst %s offload dev %s dir %s\n",
		x.id(), reqid, hex.EncodeToString(x.key), window, host(x.src.Address), host(x.dst.Address), h.Device, dir)
}

func (x sa) delete() string { return "state delete " + x.id() + "\n" }

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// of is the SA by which the host receives, or sends.
func (g *generation) of(h *Host, receives bool) sa {
	if (h == g.sas[0].dst) == receives {
		return g.sas[0]
	}
	return g.sas[1]
}

// policies are the commands for the policies of a host, and those that take them back.
func policies(h, peer *Host, reqid uint32) (add, remove string) {
	var adds, removes strings.Builder
	for _, p := range []struct {
		src, dst *Host
		dir      string
	}{{peer, h, "in"}, {h, peer, "out"}} {
		selector := fmt.Sprintf("src %s dst %s dir %s", host(p.src.Address), host(p.dst.Address), p.dir)
		fmt.Fprintf(&adds, "policy add %s tmpl src %s dst %s proto esp reqid %#x mode transport\n", selector, p.src.Address, p.dst.Address, reqid)
		removes.WriteString("policy delete " + selector + "\n")
	}
	return adds.String(), removes.String()
}
