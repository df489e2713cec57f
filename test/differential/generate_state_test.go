package differential

import "fmt"

func (g *generator) algorithms(proto string) []string {
	var parts [][]string
	enc := func() { parts = append(parts, []string{"enc", g.name(), g.key()}) }
	auth := func() {
		if g.chance(50) {
			parts = append(parts, []string{"auth", g.name(), g.key()})
		} else {
			parts = append(parts, []string{"auth-trunc", g.name(), g.key(), g.number(32)})
		}
	}
	aead := func() { parts = append(parts, []string{"aead", g.name(), g.key(), g.number(32)}) }
	comp := func() { parts = append(parts, []string{"comp", g.name()}) }
	if g.chance(5) { // anything
		for _, f := range []func(){enc, auth, aead, comp} {
			if g.chance(40) {
				f()
			}
		}
		return g.shuffled(parts, 50)
	}
	switch proto {
	case "esp":
		if g.chance(60) {
			aead()
		} else {
			enc()
			if g.chance(60) {
				auth()
			}
		}
	case "ah":
		auth()
	case "comp":
		comp()
	}
	return g.shuffled(parts, 20)
}

func (g *generator) mark(keyword string) []string {
	if g.chance(10) {
		return []string{keyword, "256", "mask", "70"} // no bit in common
	}
	if g.chance(50) {
		return []string{keyword, g.number(32)}
	}
	return []string{keyword, g.number(32), "mask", g.pick("0", "0xffffffff", g.number(32))}
}

func (g *generator) limit() []string {
	return []string{"limit", g.rarely("bytes", g.pick("time-soft", "time-hard", "time-use-soft", "time-use-hard", "byte-soft", "byte-hard",
		"packet-soft", "packet-hard")), g.number(64)}
}

func (g *generator) flags(keyword string, bits int, names ...string) []string {
	words := []string{keyword}
	switch {
	case g.chance(15):
		return append(words, fmt.Sprintf("0x%x", g.Uint32()>>(32-bits)))
	case g.chance(3):
		return append(words, g.pick("bogus", "0x1ff", "0X1", "3", "reqid"))
	}
	for range 1 + g.IntN(3) {
		words = append(words, g.pick(names...))
	}
	return words
}

// stateClause is one clause of `state add`.
func (g *generator) stateClause(v6 bool) []string {
	switch g.IntN(22) {
	case 0, 1:
		return []string{"mode", g.mode()}
	case 2:
		return g.mark("mark")
	case 3:
		return []string{"reqid", g.number(32)}
	case 4:
		return []string{"seq", g.number(32)}
	case 5, 6:
		return []string{"replay-window", g.pick("0", "1", "32", "33", "64", "128", "4096", "4097", g.number(12))}
	case 7:
		return []string{g.pick("replay-seq", "replay-oseq", "replay-seq-hi", "replay-oseq-hi"), g.number(32)}
	case 8, 9:
		return g.flags("flag", 8, "noecn", "decap-dscp", "nopmtudisc", "wildrecv", "icmp", "af-unspec", "align4", "esn")
	case 10:
		return g.flags("extra-flag", 32, "dont-encap-dscp", "oseq-may-wrap")
	case 11, 12:
		return append([]string{"sel"}, g.selector(v6)...)
	case 13, 14:
		return g.limit()
	case 15:
		return []string{"encap", g.rarely("espinudp4", g.pick("espinudp", "espinudp-nonike", "espintcp")), g.number(16), g.number(16), g.pick("0.0.0.0", g.address(v6))}
	case 16:
		return []string{"coa", g.address(v6)}
	case 17:
		return []string{"ctx", g.pick("system_u:object_r:ipsec_spd_t:s0", "a", "")}
	case 18:
		words := []string{"offload"}
		if g.chance(40) {
			words = append(words, g.pick("crypto", "packet"))
		}
		if g.chance(97) {
			words = append(words, "dev", g.rarely("nope", g.pick("lo", "p4p1")))
		}
		return append(words, "dir", g.rarely("fwd", g.pick("in", "out")))
	case 19:
		return g.mark("output-mark")
	case 20:
		return []string{g.pick("if_id", "tfcpad"), g.number(32)}
	}
	dir, number := []string{"dir", g.rarely("fwd", g.pick("in", "out"))}, g.number(8)
	words := []string{"pcpu-num", "nat-keepalive", "mapping-maxage"} // which ip does not know
	return g.pickClause(dir, []string{words[len(number)%len(words)], number})
}

func (g *generator) pickClause(clauses ...[]string) []string { return clauses[g.IntN(len(clauses))] }

func (g *generator) stateAdd(v6 bool) []string {
	proto := g.proto()
	parts := [][]string{g.id(v6, proto), g.algorithms(proto)}
	switch proto {
	case "route2", "hao":
		if g.chance(90) {
			parts = append(parts, []string{"mode", g.pick("ro", "in_trigger", "tunnel")}, []string{"coa", g.address(v6)})
		}
	}
	for range g.IntN(5) {
		parts = append(parts, g.stateClause(v6))
	}
	return append([]string{"state", g.pick("add", "add", "update", "a", "up")}, g.shuffled(parts, 25)...)
}

func (g *generator) allocSPI(v6 bool) []string {
	proto := g.pick("esp", "esp", "ah", "comp", "hao", g.proto())
	id := g.id(v6, proto)
	if g.chance(95) { // an SPI is not wanted here
		for i, w := range id {
			if w == "spi" {
				id = append(id[:i:i], id[i+2:]...)
				break
			}
		}
	}
	parts := [][]string{id}
	for range g.IntN(4) {
		parts = append(parts, g.pickClause(
			[]string{"mode", g.mode()}, g.mark("mark"), []string{"reqid", g.number(32)}, []string{"seq", g.number(32)},
			[]string{"min", g.number(12), "max", g.number(16)}, []string{"min", g.number(32)}, []string{"max", g.number(32)},
			[]string{"dir", g.pick("in", "out")}, []string{"pcpu-num", g.number(8)}))
	}
	return append([]string{"state", g.pick("allocspi", "alloc")}, g.shuffled(parts, 20)...)
}

func (g *generator) stateOther(v6 bool) []string {
	proto := g.proto()
	switch g.IntN(8) {
	case 0, 1, 2:
		words := []string{"state", g.pick("delete", "get", "del", "d", "g")}
		if g.chance(95) {
			words = append(words, g.id(v6, proto)...)
		}
		if g.chance(30) {
			words = append(words, g.mark("mark")...)
		}
		return words
	case 3, 4, 5:
		parts := [][]string{}
		if g.chance(50) {
			parts = append(parts, g.id(v6, proto))
		}
		for range g.IntN(3) {
			parts = append(parts, g.pickClause([]string{"mode", g.mode()}, []string{"reqid", g.number(32)}, []string{"nokeys"},
				g.flags("flag", 8, "noecn", "esn", "icmp"), []string{"src", g.address(v6)}))
		}
		return append([]string{"state", g.pick("list", "show", "lst", "s", "ls", "deleteall", "delall")}, g.shuffled(parts, 40)...)
	case 6:
		return append([]string{"state", g.pick("flush", "f")}, g.pickClause(nil, []string{"proto", proto}, []string{"proto", proto, "proto", "esp"})...)
	}
	return append([]string{"state", g.pick("count", "c", "set", "bogus", "help", "")}, g.pickClause(nil, []string{"x"})...)
}
