package xfrm

// policySetGrammar is of `policy set`: from which prefix lengths on policies are hashed.
var policySetGrammar = newGrammar([]keyword[*Command]{
	{name: "hthresh4", once: true, parse: func(c *cursor, cmd *Command) error { return threshold(c, &cmd.Thresholds.IPv4, 32) }},
	{name: "hthresh6", once: true, parse: func(c *cursor, cmd *Command) error { return threshold(c, &cmd.Thresholds.IPv6, 128) }},
})

// threshold reads LBITS RBITS.
func threshold(c *cursor, dst **Threshold, max uint8) error {
	t := &Threshold{}
	for _, bits := range []*uint8{&t.Local, &t.Remote} {
		if err := number(c, bits, 8, "a prefix length"); err != nil {
			return err
		}
		if *bits > max {
			return c.wrong("is longer than an address")
		}
	}
	*dst = t
	return nil
}

// defaultsGrammar is of `policy setdefault`.
var defaultsGrammar = newGrammar([]keyword[*Command]{
	{name: "in", once: true, parse: func(c *cursor, cmd *Command) error { return defaultAction(c, &cmd.Defaults.In) }},
	{name: "fwd", once: true, parse: func(c *cursor, cmd *Command) error { return defaultAction(c, &cmd.Defaults.Fwd) }},
	{name: "out", once: true, parse: func(c *cursor, cmd *Command) error { return defaultAction(c, &cmd.Defaults.Out) }},
})

func defaultAction(c *cursor, dst *DefaultAction) error {
	return named(c, dst, defaultActionNames, "a default")
}
