package differential

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator makes commands: most of them legal, many nearly so.
type generator struct{ *rand.Rand }

func (g *generator) pick(words ...string) string { return words[g.IntN(len(words))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

// rarely is bad in 3 of 100, else good.
func (g *generator) rarely(bad, good string) string {
	if g.chance(3) {
		return bad
	}
	return good
}

func (g *generator) number(bits int) string {
	if g.chance(3) {
		return g.pick("", "x", "0x", "5k", "08", "-1", "+1", " 1", "1.5", "99999999999999999999", "4294967296", "65536", "256")
	}
	v := g.Uint64() >> (64 - bits)
	if g.chance(70) {
		v %= 300
		if bits <= 8 {
			v %= 256
		}
	}
	return fmt.Sprintf(g.pick("%d", "%d", "0x%x", "0%o"), v)
}

func (g *generator) address(v6 bool) string {
	if g.chance(3) {
		return g.pick("any", "all", "default", "1.2.3", "10", "1..2", "1.2.3.4.5", "010.0.0.1", "0x10.1.1.1", "300.1.1.1", "::g",
			"fe80::1%lo", "localhost", "1.2.3.4/33", "::1/129", "1.2.3.4/", "1.2.3.4/255.0.255.0", "::ffff:1.2.3.4", "", "1.2.3.4", "::1", "1.", "0/0", "::/0")
	}
	a := fmt.Sprintf("10.%d.%d.%d", g.IntN(3), g.IntN(256), g.IntN(256))
	length := g.IntN(33)
	if v6 {
		a = fmt.Sprintf(g.pick("2001:db8::%x", "2001:db8:%x::1", "fd00::%x:1"), 1+g.IntN(0xffff))
		length = g.IntN(129)
	}
	switch {
	case g.chance(60):
		return a
	case !v6 && g.chance(5):
		return a + "/255.255.0.0"
	}
	return fmt.Sprintf("%s/%d", a, length)
}

func (g *generator) proto() string {
	return g.rarely(g.pick("es", "50", "any", "ESP", ""), g.pick("esp", "esp", "esp", "esp", "ah", "comp", "route2", "hao", "ipsec-any"))
}

func (g *generator) mode() string {
	return g.rarely("tunel", g.pick("transport", "transport", "tunnel", "tunnel", "beet", "ro", "in_trigger"))
}

func (g *generator) key() string {
	if g.chance(5) {
		return g.pick("", "0x", "0xg", "0X11", "abc", "0x1", "0xabc", "@/nonexistent", "a b'c\"d")
	}
	return fmt.Sprintf("0x%0*x", 2*(1+g.IntN(36)), g.Uint32())
}

func (g *generator) name() string {
	return g.rarely(g.pick("", "0x12", strings.Repeat("a", 63), strings.Repeat("b", 64)),
		g.pick("rfc4106(gcm(aes))", "cbc(aes)", "hmac(sha1)", "hmac(sha256)", "deflate", "ecb(cipher_null)"))
}

// id makes ID, most often whole.
func (g *generator) id(v6 bool, proto string) []string {
	var parts [][]string
	if g.chance(92) {
		parts = append(parts, []string{"src", g.address(v6)})
	}
	if g.chance(95) {
		parts = append(parts, []string{"dst", g.address(v6)})
	}
	if g.chance(97) {
		parts = append(parts, []string{"proto", proto})
	}
	spi := 80
	switch proto {
	case "route2", "hao":
		spi = 5
	}
	if g.chance(spi) {
		parts = append(parts, []string{"spi", g.number(g.spiBits(proto))})
	}
	if g.chance(2) {
		parts = append(parts, []string{"dst", g.address(!v6)})
	}
	return g.shuffled(parts, 30)
}

func (g *generator) spiBits(proto string) int {
	if proto == "comp" && g.chance(90) {
		return 16
	}
	return 32
}

// shuffled joins the parts, some percent of the time in another order.
func (g *generator) shuffled(parts [][]string, percent int) []string {
	if g.chance(percent) {
		g.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	}
	var words []string
	for _, p := range parts {
		words = append(words, p...)
	}
	return words
}

func (g *generator) selector(v6 bool) []string {
	var parts [][]string
	if g.chance(70) {
		parts = append(parts, []string{"src", g.address(v6)})
	}
	if g.chance(70) {
		parts = append(parts, []string{"dst", g.address(v6)})
	}
	if g.chance(20) {
		parts = append(parts, []string{"dev", g.rarely("nope", g.pick("lo", "p4p1", "none", "if7"))})
	}
	if g.chance(50) {
		parts = append(parts, g.upper())
	}
	return g.shuffled(parts, 20)
}

func (g *generator) upper() []string {
	proto := g.rarely(g.pick("Tcp", "nope", "256", "TCP", "-1", ""),
		g.pick("tcp", "udp", "sctp", "dccp", "icmp", "ipv6-icmp", "mobility-header", "gre", "esp", "ospf", "any", "17", "0x6", "47", "99", "0"))
	parts := [][]string{{"proto", proto}}
	add := func(percent int, words ...string) {
		if g.chance(percent) {
			parts = append(parts, words)
		}
	}
	switch proto {
	case "tcp", "udp", "sctp", "dccp", "17", "0x6", "any", "0":
		add(60, "sport", g.number(16))
		add(60, "dport", g.number(16))
		add(2, "type", g.number(8))
	case "icmp", "ipv6-icmp", "mobility-header":
		add(60, "type", g.number(8))
		add(60, "code", g.number(8))
		add(2, "sport", g.number(16))
	case "gre", "47":
		add(70, "key", g.pick(g.number(32), "1.2.3.4", "1.2", "1.2.3.4.5", "1.2.3.400"))
		add(2, "dport", g.number(16))
	default:
		add(5, "sport", g.number(16))
		add(5, "key", g.number(32))
	}
	return g.shuffled(parts, 20)
}

func (g *generator) monitor() []string {
	words := []string{g.pick("monitor", "mon", "m")}
	for range g.IntN(4) {
		words = append(words, g.pick("nokeys", "all", "acquire", "acq", "expire", "e", "SA", "S", "aevent", "ae", "policy", "p", "report", "r", "sa", "bogus", "f", "n"))
	}
	return append(words, "file", g.pick("/dev/null", "/nonexistent"))
}

// command makes one, without ip's options.
func (g *generator) command() []string {
	v6 := g.chance(40)
	var words []string
	switch n := g.IntN(100); {
	case n < 40:
		words = g.stateAdd(v6)
	case n < 50:
		words = g.allocSPI(v6)
	case n < 62:
		words = g.stateOther(v6)
	case n < 84:
		words = g.policyAdd(v6)
	case n < 97:
		words = g.policyOther(v6)
	default:
		return g.monitor()
	}
	if g.chance(8) {
		words = g.spoil(words)
	}
	return words
}

// spoil takes a word out, doubles one, swaps two, cuts the end off, or puts a wrong one in.
func (g *generator) spoil(words []string) []string {
	i := 2 + g.IntN(max(len(words)-2, 1))
	if i >= len(words) {
		return append(words, g.pick("src", "help", "bogus", "tmpl", "sel"))
	}
	switch g.IntN(5) {
	case 0:
		return append(words[:i:i], words[i+1:]...)
	case 1:
		return append(append(words[:i+1:i+1], words[i]), words[i+1:]...)
	case 2:
		words[i], words[i-1] = words[i-1], words[i]
		return words
	case 3:
		return words[:i]
	}
	words[i] = g.pick("src", "proto", "mode", "bogus", "0x10", "", "dir", "flag", "esp", "mask", "any")
	return words
}
