package sad

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

var gatewayA, gatewayB = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")

// inner is the n-th of 2^24 addresses below a first byte.
func inner(first byte, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{first, byte(n >> 16), byte(n >> 8), byte(n)})
}

// policy is the n-th policy: each protects the traffic between two hosts of its own, by a tunnel.
func policy(n int) *xfrm.Policy {
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	sel := ipsec.Selector{Src: host(inner(10, n)), Dst: host(inner(11, n))}
	return &xfrm.Policy{
		Sel: xfrm.Selector{Selector: sel, Family: unix.AF_INET}, Dir: xfrm.PolicyOut, Limits: xfrm.NoLimits,
		Tmpls: []xfrm.Tmpl{{
			Src: gatewayA, Dst: gatewayB, Proto: unix.IPPROTO_ESP, Family: unix.AF_INET, Reqid: uint32(n + 1), Mode: xfrm.ModeTunnel,
			AAlgos: ^uint32(0), EAlgos: ^uint32(0), CAlgos: ^uint32(0),
		}},
	}
}

// script writes a file of n commands as ip -batch takes them.
func (b *bench) script(verb string, n int) (string, error) {
	name := filepath.Join(b.dir, verb)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for i := range n {
		fmt.Fprintf(w, "xfrm policy %s src %s dst %s dir out", verb, inner(10, i), inner(11, i))
		if verb == "add" {
			fmt.Fprintf(w, " tmpl src %s dst %s proto esp reqid %d mode tunnel", gatewayA, gatewayB, i+1)
		}
		fmt.Fprintln(w)
	}
	return name, w.Flush()
}
