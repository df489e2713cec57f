package xfrm

import (
	"golang.org/x/sys/unix"
)

// policyBuilder is any policy command in the making.
type policyBuilder struct {
	*Policy
	cmd   *Command
	sel   selection
	dir   *PolicyDir
	index *uint32
	only  Policy // the Policy of a command that is about the identity of one
}

func selectionOf(b *policyBuilder) *selection { return &b.sel }

// policyKeyWords are the keywords that tell policies apart.
var policyKeyWords = append(selectorWords(selectionOf), []keyword[*policyBuilder]{
	{name: "dir", once: true, parse: func(c *cursor, b *policyBuilder) error {
		return optionalNamed(c, &b.dir, policyDirNames, "a direction")
	}},
	{name: "mark", parse: func(c *cursor, b *policyBuilder) error { return mark(c, &b.Mark) }},
	{name: "ctx", once: true, parse: func(c *cursor, b *policyBuilder) error { return secCtx(c, &b.SecCtx) }},
	{name: "ptype", once: true, parse: func(c *cursor, b *policyBuilder) error {
		return named(c, &b.Type, policyTypeNames, "a policy type")
	}},
	{name: "if_id", parse: func(c *cursor, b *policyBuilder) error { return number(c, &b.IfID, 32, "an if_id") }},
}...)

// indexWord may be repeated by who adds, not by who looks up.
func indexWord(once bool) keyword[*policyBuilder] {
	return keyword[*policyBuilder]{name: "index", once: once, parse: func(c *cursor, b *policyBuilder) error {
		return optionalNumber(c, &b.index, ValueIndex)
	}}
}

var policyGrammar = newGrammar(policyKeyWords, []keyword[*policyBuilder]{
	indexWord(false),
	{name: "action", parse: func(c *cursor, b *policyBuilder) error {
		return named(c, &b.Action, policyActionNames, "an action")
	}},
	{name: "priority", parse: func(c *cursor, b *policyBuilder) error {
		return number(c, &b.Priority, 32, "a priority")
	}},
	{name: "flag", parse: func(c *cursor, b *policyBuilder) error {
		return flags(c, &b.Flags, policyFlagNames, 8)
	}},
	{name: "limit", parse: func(c *cursor, b *policyBuilder) error { return limit(c, &b.Limits) }},
	{name: "offload", parse: parsePolicyOffload},
	{name: "tmpl", parse: parseTmpl},
})

var policyIDGrammar = newGrammar(policyKeyWords, []keyword[*policyBuilder]{indexWord(true)})

func (c *cursor) policyCommand(cmd *Command) error {
	switch cmd.Verb {
	case VerbAdd, VerbUpdate:
		return c.policyAdd(cmd)
	case VerbDelete, VerbGet:
		return c.policyIdentity(cmd)
	case VerbFlush:
		return policyFlushGrammar.parseAll(c, cmd)
	case VerbList, VerbDeleteAll:
		return c.policyQuery(cmd)
	case VerbSet:
		return policySetGrammar.parseAll(c, cmd)
	case VerbSetDefault:
		return defaultsGrammar.parseAll(c, cmd)
	}
	return (&grammar[*Command]{}).parseAll(c, cmd)
}

func (c *cursor) policyAdd(cmd *Command) error {
	b := &c.policy
	own := &roomyPolicy{Policy: Policy{Limits: NoLimits}}
	own.Tmpls = own.room[:0]
	b.Policy, b.cmd = &own.Policy, cmd
	if err := policyGrammar.parseAll(c, b); err != nil {
		return err
	}
	if err := b.finish(c); err != nil {
		return err
	}
	if b.index != nil {
		b.Index = *b.index
	}
	if len(b.Tmpls) == 0 {
		b.Tmpls = nil
	}
	cmd.Policy = b.Policy
	return nil
}

// finish settles direction and selector. A selector without addresses is one of IPv4.
func (b *policyBuilder) finish(c *cursor) error {
	if b.dir == nil {
		return c.semantic("dir in, out or fwd is missing")
	}
	b.Dir = *b.dir
	b.Sel = b.sel.sel
	if b.Sel.Family == 0 && (b.sel.given || b.index == nil) {
		b.Sel.Family = c.env.Family
	}
	if b.Sel.Family == 0 {
		b.Sel.Family = unix.AF_INET
	}
	fill(&b.Sel)
	return nil
}

// policyIdentity reads what delete and get take: a selector or an index.
func (c *cursor) policyIdentity(cmd *Command) error {
	b := &c.policy
	b.Policy, b.cmd = &b.only, cmd
	if err := policyIDGrammar.parseAll(c, b); err != nil {
		return err
	}
	if b.sel.given && b.index != nil && b.dir != nil {
		return &SyntaxError{Index: len(c.words), Context: c.context(), Problem: "a selector and an index name two policies; give one"}
	}
	if err := b.finish(c); err != nil {
		return err
	}
	if !b.sel.given && b.index == nil {
		return c.semantic("which one? a selector or an index is missing")
	}
	cmd.PolicyID = &PolicyID{Sel: b.Sel, Dir: b.Dir, Type: b.Type, Mark: b.Mark, IfID: b.IfID, SecCtx: b.SecCtx}
	if b.index != nil {
		cmd.PolicyID.Index = *b.index
	}
	return nil
}

// parsePolicyOffload reads packet dev D: a policy is offloaded only to a NIC that does
// all of IPsec.
func parsePolicyOffload(c *cursor, b *policyBuilder) error {
	if err := c.expect("packet"); err != nil {
		return err
	}
	name, index, err := offloadDevice(c)
	if err != nil {
		return err
	}
	b.Offload, b.cmd.Device = &Offload{Ifindex: int32(index), Flags: OffloadPacket}, name
	return nil
}

// tmplBuilder is a template in the making.
type tmplBuilder struct {
	Tmpl
	id identity
}

var tmplGrammar = newGrammar(idWords(func(t *tmplBuilder) *identity { return &t.id }), []keyword[*tmplBuilder]{
	{name: "mode", parse: func(c *cursor, t *tmplBuilder) error { return named(c, &t.Mode, modeNames, "a mode") }},
	{name: "reqid", parse: func(c *cursor, t *tmplBuilder) error { return number(c, &t.Reqid, 32, ValueReqid) }},
	{name: "level", parse: func(c *cursor, t *tmplBuilder) error {
		return namedBool(c, &t.Optional, levelNames, "a level")
	}},
})

// parseTmpl reads ID [mode][reqid][level]. Every algorithm is acceptable, as with ip.
func parseTmpl(c *cursor, b *policyBuilder) error {
	all := ^uint32(0)
	family := c.family
	t := &c.tmpl
	*t = tmplBuilder{Tmpl: Tmpl{AAlgos: all, EAlgos: all, CAlgos: all}}
	if !c.more() && !c.atGap() {
		return c.wrong("needs a template", tmplGrammar.names()...)
	}
	err := c.anyFamily(func() error {
		_, err := tmplGrammar.parse(c, t)
		return err
	})
	if err != nil {
		return err
	}
	if !t.id.given && (c.more() || c.atGap()) {
		return c.protoMissing()
	}
	t.Src, t.Dst, t.Proto, t.SPI = t.id.src.Addr(), t.id.dst.Addr(), t.id.proto, t.id.spi
	switch {
	case isIPv6(t.Src) || isIPv6(t.Dst):
		t.Family = unix.AF_INET6
	case t.Src.IsValid() || t.Dst.IsValid():
		t.Family = unix.AF_INET
	default: // that of the addresses before; of none Linux makes that of the selector
		t.Family = family
	}
	b.Tmpls = append(b.Tmpls, t.Tmpl)
	return nil
}

var policyFlushGrammar = newGrammar([]keyword[*Command]{{name: "ptype", once: true, parse: func(c *cursor, cmd *Command) error {
	return named(c, &cmd.FlushType, policyTypeNames, "a policy type")
}}})

// policyQueryBuilder is a `policy list` in the making.
type policyQueryBuilder struct {
	*PolicyQuery
	sel selection
}

var policyQueryGrammar = newGrammar(selectorWords(func(q *policyQueryBuilder) *selection { return &q.sel }), []keyword[*policyQueryBuilder]{
	{name: "nosock", parse: func(_ *cursor, q *policyQueryBuilder) error { q.NoSockets = true; return nil }},
	{name: "dir", parse: func(c *cursor, q *policyQueryBuilder) error {
		return optionalNamed(c, &q.Dir, policyDirNames, "a direction")
	}},
	{name: "index", parse: func(c *cursor, q *policyQueryBuilder) error { return optionalNumber(c, &q.Index, ValueIndex) }},
	{name: "ptype", parse: func(c *cursor, q *policyQueryBuilder) error {
		return optionalNamed(c, &q.Type, policyTypeNames, "a policy type")
	}},
	{name: "action", parse: func(c *cursor, q *policyQueryBuilder) error {
		return optionalNamed(c, &q.Action, policyActionNames, "an action")
	}},
	{name: "priority", parse: func(c *cursor, q *policyQueryBuilder) error {
		return optionalNumber(c, &q.Priority, "a priority")
	}},
	{name: "flag", parse: func(c *cursor, q *policyQueryBuilder) error {
		return flags(c, &q.Flags, policyFlagNames, 8)
	}},
})

func (c *cursor) policyQuery(cmd *Command) error {
	q := &policyQueryBuilder{PolicyQuery: &PolicyQuery{Family: c.env.Family}}
	if err := policyQueryGrammar.parseAll(c, q); err != nil {
		return err
	}
	q.Sel = q.sel.sel
	cmd.PolicyQuery = q.PolicyQuery
	return nil
}
