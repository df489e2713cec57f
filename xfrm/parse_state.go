package xfrm

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// stateBuilder is a `state add` in the making.
type stateBuilder struct {
	*State
	cmd         *Command
	id          identity
	dir         StateDir
	replay      ReplayState
	replayGiven bool
}

var stateGrammar = grammar[*stateBuilder]{
	words: append(idWords(func(b *stateBuilder) *identity { return &b.id }), []keyword[*stateBuilder]{
		{name: "aead", once: true, parse: parseAEAD},
		{name: "mode", parse: func(c *cursor, b *stateBuilder) error { return named(c, &b.Mode, modeNames, "a mode") }},
		{name: "mark", parse: func(c *cursor, b *stateBuilder) error { return mark(c, &b.Mark) }},
		{name: "reqid", parse: func(c *cursor, b *stateBuilder) error { return number(c, &b.Reqid, 32, "a reqid") }},
		{name: "dir", parse: func(c *cursor, b *stateBuilder) error { return named(c, &b.dir, stateDirNames, "a direction") }},
		{name: "seq", parse: parseSeq},
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
		{name: "offload", parse: parseStateOffload},
		{name: "output-mark", parse: func(c *cursor, b *stateBuilder) error { return mark(c, &b.OutputMark) }},
		{name: "if_id", parse: func(c *cursor, b *stateBuilder) error { return number(c, &b.IfID, 32, "an if_id") }},
		{name: "tfcpad", parse: func(c *cursor, b *stateBuilder) error { return number(c, &b.TFCPad, 32, "a length") }},
	}...),
	later: map[string]string{
		"enc":        onlyGCM,
		"auth":       onlyGCM,
		"auth-trunc": onlyGCM,
		"comp":       onlyGCM,
		"coa":        "care-of addresses belong to Mobile IPv6",
		"ctx":        "security contexts (SELinux) are not passed on",
		"pcpu-num":   "",
	},
}

const onlyGCM = "only AES-GCM is, with aead '" + AEADName + "' KEY 128"

func (c *cursor) stateCommand(cmd *Command) error {
	switch cmd.Verb {
	case VerbAdd, VerbUpdate:
		return c.stateAdd(cmd)
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
	if err := b.id.check(c, false); err != nil {
		return err
	}
	s.Src, s.Dst = b.id.addrs()
	s.Proto, s.SPI = b.id.proto, b.id.spi
	if s.Proto != protoESP {
		return c.semantic(fmt.Sprintf("proto %s is not implemented: only esp is", ProtocolName(s.Proto)))
	}
	if s.Mode == ModeRouteOptimization || s.Mode == ModeInTrigger {
		return c.semantic(fmt.Sprintf("mode %s does not go with proto esp", s.Mode))
	}
	if s.AEAD == nil {
		return c.semantic("a key is missing: aead '" + AEADName + "' KEY 128 is required with proto esp")
	}
	if o := s.Offload; o != nil && b.dir != 0 && b.dir != o.dir() {
		return c.semantic(fmt.Sprintf("dir %s contradicts offload … dir %s", b.dir, o.dir()))
	}
	if b.dir == 0 {
		b.dir = s.impliedDir()
	}
	s.Dir = b.dir
	if s.Flags&FlagESN != 0 && s.ReplayWindow == 0 && s.Dir != StateDirOut {
		return &SyntaxError{Index: len(c.words), Context: c.context,
			Problem: "flag esn needs a replay-window, such as replay-window 64 (only an SA with dir out goes without)"}
	}
	if b.replayGiven {
		if (b.replay.SeqHi != 0 || b.replay.OSeqHi != 0) && !s.wideReplay() {
			return c.semantic("replay-seq-hi and replay-oseq-hi go with flag esn")
		}
		s.Replay = &b.replay
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

// parseAEAD reads NAME KEY ICVBITS.
func parseAEAD(c *cursor, b *stateBuilder) error {
	name, err := c.value()
	if err != nil {
		return err
	}
	// struct xfrm_algo_aead has room for 63 bytes and a zero. No name begins with 0x, but a
	// key in its place does.
	if name == "" || len(name) > 63 || strings.HasPrefix(name, "0x") {
		return &SyntaxError{Index: c.pos - 1, Context: c.context,
			Problem: fmt.Sprintf("word %d is not the name of an algorithm; AES-GCM is aead '%s'", c.pos, AEADName)}
	}
	a := &AEAD{Name: name}
	if !c.more() {
		return c.wrong("needs a key after it")
	}
	if a.Key, err = key(c, b.cmd, "aead"); err != nil {
		return err
	}
	a.KeyBits = uint32(a.Key.Len() * 8)
	if !c.more() {
		return &SyntaxError{Index: c.pos, Context: c.context, Problem: "aead needs the length of the ICV in bits after the key, such as 128"}
	}
	// The word is not quoted: if the two were swapped, it is the key.
	icv, err := parseNumber(c.next(), 32)
	if err != nil {
		return &SyntaxError{Index: c.pos - 1, Context: c.context,
			Problem: fmt.Sprintf("the ICV length of aead (word %d) is not a number of bits, such as 128", c.pos)}
	}
	a.ICVBits = uint32(icv)
	b.AEAD = a
	return nil
}

// parseSeq puts the number into network order, as ip does, although the kernel never looks
// into it and prints go without turning it back.
func parseSeq(c *cursor, b *stateBuilder) error {
	var v uint32
	err := number(c, &v, 32, "a sequence number")
	b.Seq = swapSeq(v)
	return err
}

// swapSeq turns a number of this host into one in network order, and back.
func swapSeq(v uint32) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return binary.NativeEndian.Uint32(b[:])
}

func parseWindow(c *cursor, b *stateBuilder) error {
	if err := number(c, &b.ReplayWindow, 32, "a window"); err != nil {
		return err
	}
	if b.ReplayWindow > maxWindow {
		return c.wrong(fmt.Sprintf("is too long a window: %d packets are the most", maxWindow))
	}
	return nil
}

func replayNumber(field func(*ReplayState) *uint32) func(*cursor, *stateBuilder) error {
	return func(c *cursor, b *stateBuilder) error {
		b.replayGiven = true
		return number(c, field(&b.replay), 32, "a sequence number")
	}
}

var stateSelectorGrammar = grammar[*selection]{
	words: selectorWords(func(s *selection) *selection { return s }),
}

func parseStateSelector(c *cursor, b *stateBuilder) error {
	s := selection{}
	n, err := stateSelectorGrammar.parse(c, &s)
	if err != nil {
		return err
	}
	if n == 0 {
		return c.wrong("needs a selector", stateSelectorGrammar.names()...)
	}
	if err := s.finish(c); err != nil {
		return err
	}
	fill(&s.sel)
	b.Sel = s.sel
	return nil
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

func limit(c *cursor, l *LifetimeConfig) error {
	word, err := c.value()
	if err != nil {
		return err
	}
	var names []string
	for _, f := range limitFields {
		if f.name == word {
			return number(c, f.field(l), 64, "a limit")
		}
		names = append(names, f.name)
	}
	return c.wrong("is not a limit", names...)
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
	if !c.more() {
		return c.wrong("needs " + word + " after it")
	}
	if c.next() != word {
		return c.wrong("is not a word here", word)
	}
	return nil
}

// idCommand is a `state delete` or `get` in the making.
type idCommand struct {
	id   identity
	mark *Mark
}

var stateIDGrammar = grammar[*idCommand]{
	words: append(idWords(func(i *idCommand) *identity { return &i.id }), keyword[*idCommand]{
		name: "mark", parse: func(c *cursor, i *idCommand) error { return mark(c, &i.mark) },
	}),
}

func (c *cursor) stateIdentity(cmd *Command) error {
	var i idCommand
	if err := stateIDGrammar.parseAll(c, &i); err != nil {
		return err
	}
	if !i.id.given {
		return c.semantic("which one? src, dst, proto and spi are missing")
	}
	if err := i.id.check(c, false); err != nil {
		return err
	}
	src, dst := i.id.addrs()
	cmd.StateID = StateID{Src: src, Dst: dst, Proto: i.id.proto, SPI: i.id.spi, Mark: i.mark}
	return nil
}

var stateFlushGrammar = grammar[*Command]{
	words: []keyword[*Command]{{name: "proto", parse: func(c *cursor, cmd *Command) error {
		return named(c, &cmd.FlushProto, protoNames, "an IPsec protocol")
	}}},
}

// stateListCommand is a `state list` or `deleteall` in the making.
type stateListCommand struct {
	*StateFilter
	cmd *Command
	id  identity
}

var stateListGrammar = grammar[*stateListCommand]{
	words: append(idWords(func(l *stateListCommand) *identity { return &l.id }), []keyword[*stateListCommand]{
		{name: "nokeys", parse: func(_ *cursor, l *stateListCommand) error { l.cmd.NoKeys = true; return nil }},
		{name: "mode", parse: func(c *cursor, l *stateListCommand) error {
			return optionalNamed(c, &l.Mode, modeNames, "a mode")
		}},
		{name: "reqid", parse: func(c *cursor, l *stateListCommand) error { return number(c, &l.Reqid, 32, "a reqid") }},
		{name: "flag", parse: func(c *cursor, l *stateListCommand) error {
			return flags(c, &l.Flags, stateFlagNames, 8)
		}},
	}...),
}

func (c *cursor) stateList(cmd *Command) error {
	l := stateListCommand{StateFilter: &cmd.StateFilter, cmd: cmd}
	l.Family = c.env.Family
	if err := stateListGrammar.parseAll(c, &l); err != nil {
		return err
	}
	if err := l.id.check(c, true); err != nil {
		return err
	}
	l.Src, l.Dst, l.Proto, l.SPI = l.id.src, l.id.dst, l.id.proto, l.id.spi
	return nil
}
