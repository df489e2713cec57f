package xfrm

// allocBuilder is a `state allocspi` in the making.
type allocBuilder struct {
	*State
	id       identity
	min, max *uint32
}

var allocGrammar = newGrammar(together(&identityGrammar, keyword[*allocBuilder]{
	group: groupID,
	over:  func(a *allocBuilder) bool { return a.id.given },
	parse: parseAllocID,
}), []keyword[*allocBuilder]{
	{name: "mode", parse: func(c *cursor, a *allocBuilder) error { return named(c, &a.Mode, modeNames, "a mode") }},
	{name: "mark", parse: func(c *cursor, a *allocBuilder) error { return mark(c, &a.Mark) }},
	{name: "reqid", parse: func(c *cursor, a *allocBuilder) error { return number(c, &a.Reqid, 32, ValueReqid) }},
	{name: "dir", parse: func(c *cursor, a *allocBuilder) error { return named(c, &a.Dir, stateDirNames, "a direction") }},
	{name: "seq", parse: func(c *cursor, a *allocBuilder) error { return parseSeq(c, a.State) }},
	{name: "min", once: true, parse: func(c *cursor, a *allocBuilder) error { return optionalNumber(c, &a.min, ValueSPI) }},
	{name: "max", once: true, parse: func(c *cursor, a *allocBuilder) error { return optionalNumber(c, &a.max, ValueSPI) }},
	{name: "pcpu-num", parse: func(c *cursor, a *allocBuilder) error { return optionalNumber(c, &a.PCPU, "a CPU") }},
})

func parseAllocID(c *cursor, a *allocBuilder) error {
	if err := a.id.parse(c); err != nil {
		return err
	}
	if a.id.spi != 0 {
		return c.semantic("spi is what allocspi finds: give min and max")
	}
	return nil
}

func (c *cursor) allocSPI(cmd *Command) error {
	a := &allocBuilder{State: &State{}}
	if err := allocGrammar.parseAll(c, a); err != nil {
		return err
	}
	if err := a.id.require(c); err != nil {
		return err
	}
	switch {
	case a.min == nil && a.max != nil:
		return c.semantic("min is missing")
	case a.min != nil && a.max == nil:
		return c.semantic("max is missing")
	case a.min != nil && *a.min > *a.max:
		return c.semantic("min is larger than max")
	}
	a.Src, a.Dst = a.id.addrs(c)
	a.Proto = a.id.proto
	r := SPIRange{State: a.State, Min: 0x100, Max: 0x0fffffff}
	if a.Proto == protoComp {
		r.Max = 0xffff
	}
	if a.min != nil {
		r.Min, r.Max = *a.min, *a.max
	}
	cmd.SPIRange = &r
	return nil
}
