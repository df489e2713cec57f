package xfrm

// idCommand is a `state delete` or `get` in the making.
type idCommand struct {
	id   identity
	mark *Mark
}

var stateIDGrammar = newGrammar(idWords(func(i *idCommand) *identity { return &i.id }), []keyword[*idCommand]{
	{name: "mark", parse: func(c *cursor, i *idCommand) error { return mark(c, &i.mark) }},
})

func (c *cursor) stateIdentity(cmd *Command) error {
	var i idCommand
	if err := stateIDGrammar.parseAll(c, &i); err != nil {
		return err
	}
	if err := i.id.require(c); err != nil {
		return err
	}
	src, dst := i.id.addrs(c)
	cmd.StateID = &StateID{Src: src, Dst: dst, Proto: i.id.proto, SPI: i.id.spi, Mark: i.mark}
	return nil
}

var stateFlushGrammar = newGrammar([]keyword[*Command]{{name: "proto", once: true, parse: func(c *cursor, cmd *Command) error {
	return named(c, &cmd.FlushProto, protoNames, "an IPsec protocol")
}}})

// stateListCommand is a `state list` or `deleteall` in the making.
type stateListCommand struct {
	*StateFilter
	cmd *Command
	id  identity
}

var stateListGrammar = newGrammar(idWords(func(l *stateListCommand) *identity { return &l.id }), []keyword[*stateListCommand]{
	{name: "nokeys", parse: func(_ *cursor, l *stateListCommand) error { l.cmd.NoKeys = true; return nil }},
	{name: "mode", parse: func(c *cursor, l *stateListCommand) error {
		return optionalNamed(c, &l.Mode, modeNames, "a mode")
	}},
	{name: "reqid", parse: func(c *cursor, l *stateListCommand) error { return number(c, &l.Reqid, 32, ValueReqid) }},
	{name: "flag", parse: func(c *cursor, l *stateListCommand) error {
		return flags(c, &l.Flags, stateFlagNames, 8)
	}},
})

func (c *cursor) stateList(cmd *Command) error {
	l := &stateListCommand{StateFilter: &StateFilter{Family: c.env.Family}, cmd: cmd, id: identity{loose: true}}
	if err := stateListGrammar.parseAll(c, l); err != nil {
		return err
	}
	l.Src, l.Dst, l.Proto, l.SPI = l.id.src, l.id.dst, l.id.proto, l.id.spi
	cmd.StateFilter = l.StateFilter
	return nil
}
