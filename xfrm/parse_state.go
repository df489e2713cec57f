package xfrm

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// stateBuilder is a `state add` in the making.
type stateBuilder struct {
	*State
	cmd                 *Command
	id                  identity
	dir                 StateDir
	sel                 Selector
	coa                 netip.Prefix
	modeGiven, coaGiven bool
	replay              ReplayState
}

var stateGrammar = newGrammar(idWords(func(b *stateBuilder) *identity { return &b.id }), algorithmWords, []keyword[*stateBuilder]{
	{name: "mode", parse: func(c *cursor, b *stateBuilder) error {
		b.modeGiven = true
		return named(c, &b.Mode, modeNames, "a mode")
	}},
	{name: "mark", parse: func(c *cursor, b *stateBuilder) error { return mark(c, &b.Mark) }},
	{name: "reqid", parse: func(c *cursor, b *stateBuilder) error { return number(c, &b.Reqid, 32, ValueReqid) }},
	{name: "dir", parse: func(c *cursor, b *stateBuilder) error { return named(c, &b.dir, stateDirNames, "a direction") }},
	{name: "seq", parse: func(c *cursor, b *stateBuilder) error { return parseSeq(c, b.State) }},
	{name: "replay-window", parse: parseWindow},
	{name: "replay-seq", parse: replayNumber(func(r *ReplayState) *uint32 { return &r.Seq })},
	{name: "replay-seq-hi", parse: replayNumber(func(r *ReplayState) *uint32 { return &r.SeqHi })},
	{name: "replay-oseq", parse: replayNumber(func(r *ReplayState) *uint32 { return &r.OSeq })},
	{name: "replay-oseq-hi", parse: replayNumber(func(r *ReplayState) *uint32 { return &r.OSeqHi })},
	{name: "flag", parse: func(c *cursor, b *stateBuilder) error { return flags(c, &b.Flags, stateFlagNames, 8) }},
	{name: "extra-flag", parse: func(c *cursor, b *stateBuilder) error { return flags(c, &b.ExtraFlags, extraFlagNames, 32) }},
	{name: "sel", parse: parseStateSelector},
	{name: "limit", parse: func(c *cursor, b *stateBuilder) error { return limit(c, &b.Limits) }},
	{name: "encap", parse: parseEncap},
	{name: "coa", once: true, parse: parseCoA},
	{name: "ctx", once: true, parse: func(c *cursor, b *stateBuilder) error { return secCtx(c, &b.SecCtx) }},
	{name: "offload", parse: parseStateOffload},
	{name: "output-mark", parse: func(c *cursor, b *stateBuilder) error { return outputMark(c, &b.OutputMark) }},
	{name: "if_id", parse: func(c *cursor, b *stateBuilder) error { return number(c, &b.IfID, 32, "an if_id") }},
	{name: "tfcpad", parse: func(c *cursor, b *stateBuilder) error { return number(c, &b.TFCPad, 32, "a length") }},
	{name: "pcpu-num", parse: func(c *cursor, b *stateBuilder) error { return optionalNumber(c, &b.PCPU, "a CPU") }},
	{name: "nat-keepalive", parse: func(c *cursor, b *stateBuilder) error { return number(c, &b.NATKeepalive, 32, "a number of seconds") }},
	{name: "mapping-maxage", parse: func(c *cursor, b *stateBuilder) error { return number(c, &b.MappingThresh, 32, "a number of seconds") }},
})

func (c *cursor) stateCommand(cmd *Command) error {
	switch cmd.Verb {
	case VerbAdd, VerbUpdate:
		return c.stateAdd(cmd)
	case VerbAllocSPI:
		return c.allocSPI(cmd)
	case VerbDelete, VerbGet:
		return c.stateIdentity(cmd)
	case VerbFlush:
		return stateFlushGrammar.parseAll(c, cmd)
	case VerbList, VerbDeleteAll:
		return c.stateList(cmd)
	}
	return (&grammar[*Command]{}).parseAll(c, cmd)
}

func (c *cursor) stateAdd(cmd *Command) error {
	b := &stateBuilder{State: &State{Limits: NoLimits}, cmd: cmd}
	if err := stateGrammar.parseAll(c, b); err != nil {
		return err
	}
	if err := b.finish(c); err != nil {
		return err
	}
	cmd.State = b.State
	return nil
}

// finish puts the parts together and refuses what ip refuses before it sends.
func (b *stateBuilder) finish(c *cursor) error {
	s := b.State
	if err := b.id.require(c); err != nil {
		return err
	}
	s.Src, s.Dst = b.id.addrs(c)
	s.Proto, s.SPI = b.id.proto, b.id.spi
	if o := s.Offload; o != nil && b.dir != 0 && b.dir != o.dir() {
		return c.semantic(fmt.Sprintf("dir %s contradicts offload … dir %s", b.dir, o.dir()))
	}
	if b.dir == 0 {
		b.dir = s.impliedDir()
	}
	s.Dir = b.dir
	if s.ReplayWindow > maxWindow {
		return &SyntaxError{Index: len(c.words), Context: c.context(),
			Problem: fmt.Sprintf("replay-window %d is too long: %d packets are the most", s.ReplayWindow, maxWindow)}
	}
	if s.Flags&FlagESN != 0 && s.ReplayWindow == 0 && s.Dir != StateDirOut {
		return &SyntaxError{Index: len(c.words), Context: c.context(),
			Problem: "flag esn needs a replay-window, such as replay-window 64 (only an SA with dir out goes without)"}
	}
	if err := b.checkAlgorithms(c); err != nil {
		return err
	}
	if err := b.checkMode(c); err != nil {
		return err
	}
	if b.coaGiven {
		s.CoAddr = b.coa.Addr()
		if prefixFamily(b.coa) != b.id.family(c) {
			return c.semantic(fmt.Sprintf("coa %s is of the other address family than src and dst", s.CoAddr))
		}
	}
	fill(&b.sel)
	s.Sel = b.sel
	return b.finishReplay(c)
}

// finishReplay sends the replay state if any of it is set.
func (b *stateBuilder) finishReplay(c *cursor) error {
	r := &b.replay
	if (r.SeqHi != 0 || r.OSeqHi != 0) && !b.wideReplay() {
		return c.semantic("replay-seq-hi and replay-oseq-hi go with flag esn")
	}
	if r.Seq|r.OSeq|r.SeqHi|r.OSeqHi != 0 {
		b.Replay = r
	}
	return nil
}

func (o *Offload) dir() StateDir {
	if o.Flags&OffloadInbound != 0 {
		return StateDirIn
	}
	return StateDirOut
}

// impliedDir is the direction of an SA that names none: that of its offload. But a replay
// window, which means nothing to a sending SA and is refused for one with a direction, ip
// takes, and wants it with flag esn: such an SA gets no direction, as with ip.
func (s *State) impliedDir() StateDir {
	if s.Offload == nil || s.Offload.dir() == StateDirOut && s.ReplayWindow != 0 {
		return 0
	}
	return s.Offload.dir()
}

// parseSeq puts the number into network order, as ip does, although the kernel never looks
// into it and prints go without turning it back.
func parseSeq(c *cursor, s *State) error {
	var v uint32
	err := number(c, &v, 32, "a sequence number")
	s.Seq = swapSeq(v)
	return err
}

// swapSeq turns a number of this host into one in network order, and back.
func swapSeq(v uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return binary.NativeEndian.Uint32(b[:])
}

func parseWindow(c *cursor, b *stateBuilder) error {
	return number(c, &b.ReplayWindow, 32, "a window")
}

func replayNumber(field func(*ReplayState) *uint32) func(*cursor, *stateBuilder) error {
	return func(c *cursor, b *stateBuilder) error {
		return number(c, field(&b.replay), 32, "a sequence number")
	}
}

// parseStateSelector reads SELECTOR, which may be nothing as long as something follows. A
// second one adds to the first.
func parseStateSelector(c *cursor, b *stateBuilder) error {
	if !c.more() && !c.atGap() {
		return c.wrong("needs a selector", selectionGrammar.names()...)
	}
	s := selection{sel: b.sel}
	if err := c.anyFamily(func() error { return s.parse(c) }); err != nil {
		return err
	}
	b.sel = s.sel
	return nil
}

// parseCoA reads an address of the family of src and dst.
func parseCoA(c *cursor, b *stateBuilder) error {
	b.coaGiven = true
	return address(c, &b.coa)
}

// secCtx reads the name that SELinux has for the traffic.
func secCtx(c *cursor, dst **SecCtx) error {
	word, err := c.value("a security context")
	*dst = &SecCtx{Alg: 1, DOI: 1, Context: word}
	return err
}

var limitFields = []struct {
	name  string
	field func(*LifetimeConfig) *uint64
}{
	{"time-soft", func(l *LifetimeConfig) *uint64 { return &l.SoftAdd }},
	{"time-hard", func(l *LifetimeConfig) *uint64 { return &l.HardAdd }},
	{"time-use-soft", func(l *LifetimeConfig) *uint64 { return &l.SoftUse }},
	{"time-use-hard", func(l *LifetimeConfig) *uint64 { return &l.HardUse }},
	{"byte-soft", func(l *LifetimeConfig) *uint64 { return &l.SoftBytes }},
	{"byte-hard", func(l *LifetimeConfig) *uint64 { return &l.HardBytes }},
	{"packet-soft", func(l *LifetimeConfig) *uint64 { return &l.SoftPackets }},
	{"packet-hard", func(l *LifetimeConfig) *uint64 { return &l.HardPackets }},
}

func limitNames() []string {
	var names []string
	for _, f := range limitFields {
		names = append(names, f.name)
	}
	return names
}

func limit(c *cursor, l *LifetimeConfig) error {
	if c.atGap() {
		c.offer(limitNames()...)
	}
	word, err := c.value("")
	if err != nil {
		return err
	}
	for _, f := range limitFields {
		if f.name == word {
			return number(c, f.field(l), 64, "a limit")
		}
	}
	return c.wrong("is not a limit", limitNames()...)
}

// parseEncap reads TYPE SPORT DPORT OADDR.
func parseEncap(c *cursor, b *stateBuilder) error {
	e := &EncapTmpl{}
	if err := named(c, &e.Type, encapNames, "an encapsulation"); err != nil {
		return err
	}
	if err := number(c, &e.SrcPort, 16, "a port"); err != nil {
		return err
	}
	if err := number(c, &e.DstPort, 16, "a port"); err != nil {
		return err
	}
	if err := hostAddress(c, &e.OA); err != nil {
		return err
	}
	b.Encap = e
	return nil
}

// parseStateOffload reads [crypto|packet] dev D dir in|out.
func parseStateOffload(c *cursor, b *stateBuilder) error {
	o := &Offload{}
	c.offer("crypto", "packet")
	switch c.peek() {
	case "packet":
		o.Flags |= OffloadPacket
		c.pos++
	case "crypto":
		c.pos++
	}
	name, index, err := offloadDevice(c)
	if err != nil {
		return err
	}
	if err := c.expect("dir"); err != nil {
		return err
	}
	var dir StateDir
	if err := named(c, &dir, stateDirNames, "a direction"); err != nil {
		return err
	}
	if dir == StateDirIn {
		o.Flags |= OffloadInbound
	}
	o.Ifindex, b.Offload, b.cmd.Device = int32(index), o, name
	return nil
}

func offloadDevice(c *cursor) (string, int, error) {
	if err := c.expect("dev"); err != nil {
		return "", 0, err
	}
	return device(c)
}

// expect reads exactly this word.
func (c *cursor) expect(word string) error {
	c.offer(word)
	if !c.more() {
		return c.wrong("needs " + word + " after it")
	}
	if c.next() != word {
		return c.wrong("is not a word here", word)
	}
	return nil
}
