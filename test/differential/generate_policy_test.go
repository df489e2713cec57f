package differential

func (g *generator) policyClause(v6 bool) []string {
	switch g.IntN(12) {
	case 0:
		return g.mark("mark")
	case 1:
		return []string{"index", g.number(16)}
	case 2:
		return []string{"ptype", g.rarely("any", g.pick("main", "sub"))}
	case 3:
		return []string{"action", g.rarely("drop", g.pick("allow", "block"))}
	case 4:
		return []string{"priority", g.number(32)}
	case 5:
		return g.flags("flag", 8, "localok", "icmp")
	case 6:
		return []string{"if_id", g.number(32)}
	case 7:
		return g.limit()
	case 8:
		return []string{"ctx", g.pick("system_u:object_r:ipsec_spd_t:s0", "a")}
	case 9:
		words := []string{"offload"}
		if g.chance(95) {
			words = append(words, g.rarely("crypto", "packet"))
		}
		return append(words, "dev", g.rarely("nope", g.pick("lo", "p4p1")))
	}
	return g.tmpl(v6)
}

func (g *generator) tmpl(v6 bool) []string {
	words := []string{"tmpl"}
	if g.chance(10) {
		v6 = !v6
	}
	if g.chance(90) {
		words = append(words, g.id(v6, g.proto())...)
	}
	for range g.IntN(3) {
		words = append(words, g.pickClause([]string{"mode", g.mode()}, []string{"reqid", g.number(32)},
			[]string{"level", g.rarely("maybe", g.pick("required", "use"))})...)
	}
	return words
}

func (g *generator) policyAdd(v6 bool) []string {
	parts := [][]string{g.selector(v6)}
	if g.chance(96) {
		parts = append(parts, []string{"dir", g.rarely("inn", g.pick("in", "out", "fwd"))})
	}
	for range g.IntN(4) {
		parts = append(parts, g.policyClause(v6))
	}
	if g.chance(60) {
		parts = append(parts, g.tmpl(v6))
	}
	if g.chance(1) {
		for range 7 {
			parts = append(parts, []string{"tmpl", "proto", "esp"})
		}
	}
	return append([]string{"policy", g.pick("add", "update", "add", "a", "upd")}, g.shuffled(parts, 30)...)
}

func (g *generator) policyOther(v6 bool) []string {
	switch g.IntN(10) {
	case 0, 1, 2:
		parts := [][]string{}
		if g.chance(60) {
			parts = append(parts, g.selector(v6))
		} else {
			parts = append(parts, []string{"index", g.number(16)})
		}
		if g.chance(95) {
			parts = append(parts, []string{"dir", g.pick("in", "out", "fwd")})
		}
		for range g.IntN(2) {
			parts = append(parts, g.policyClause(v6))
		}
		return append([]string{"policy", g.pick("delete", "get", "d", "g")}, g.shuffled(parts, 40)...)
	case 3, 4, 5:
		parts := [][]string{}
		if g.chance(50) {
			parts = append(parts, g.selector(v6))
		}
		for range g.IntN(3) {
			parts = append(parts, g.pickClause([]string{"nosock"}, []string{"dir", g.pick("in", "out")}, g.policyClause(v6)))
		}
		return append([]string{"policy", g.pick("list", "show", "lst", "s", "deleteall")}, g.shuffled(parts, 40)...)
	case 6:
		return append([]string{"policy", g.pick("flush", "f")}, g.pickClause(nil, []string{"ptype", g.pick("main", "sub", "any")}, []string{"x"})...)
	case 7:
		words := []string{"policy", g.pick("set", "se")}
		for range g.IntN(3) {
			words = append(words, g.pick("hthresh4", "hthresh6"), g.pick("24", "32", "0", g.number(7)), g.pick("16", g.number(8)))
		}
		return words
	case 8:
		words := []string{"policy", g.pick("setdefault", "setd")}
		for range g.IntN(4) {
			words = append(words, g.pick("in", "out", "fwd", "x"), g.pick("accept", "block", "accept", "block", "allow", "drop"))
		}
		return words
	}
	return append([]string{"policy", g.pick("count", "c", "getdefault", "getd", "allocspi", "bogus", "help")}, g.pickClause(nil, []string{"x"})...)
}
