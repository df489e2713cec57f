package xfrm

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Env is what a command refers to but does not contain.
type Env struct {
	// Interface gives the ifindex of a network interface. Without it every interface is
	// refused.
	Interface func(name string) (int, error)
	// KeyFile gives the contents of the file named by `@FILE`; "-" is standard input. It is the
	// place to refuse files that others may read. Without it such keys are refused.
	KeyFile func(path string) ([]byte, error)
	// Family is AF_INET or AF_INET6 to take addresses of only one family, else 0.
	Family uint16
}

// Parse understands the words that follow `ip xfrm`. It takes the grammar, abbreviations
// and defaults of iproute2 7.1 (documented in ip-xfrm(8)), and in addition for a key
// `@FILE`, `-` and `--generate-key`. Errors are a *SyntaxError or a *SemanticError.
func Parse(words []string, env Env) (*Command, error) {
	c := cursors.Get().(*cursor)
	defer func() {
		*c = cursor{}
		cursors.Put(c)
	}()
	c.words, c.env, c.family = words, env, env.Family
	c.inner = c.innerRoom[:0]
	return c.command()
}

// cursors are zero values for the next commands: a batch has thousands.
var cursors = sync.Pool{New: func() any { return new(cursor) }}

func (c *cursor) command() (*Command, error) {
	object, err := c.readObject()
	if err != nil {
		return nil, err
	}
	cmd := &Command{Object: object}
	c.object = object.String()
	if cmd.Verb, err = c.readVerb(object); err != nil {
		return nil, err
	}
	switch object {
	case ObjectState:
		c.verb = cmd.Verb.String()
		err = c.stateCommand(cmd)
	case ObjectPolicy:
		c.verb = cmd.Verb.String()
		err = c.policyCommand(cmd)
	case ObjectMonitor:
		err = c.monitorCommand(cmd)
	}
	if err != nil {
		return nil, err
	}
	return cmd, nil
}

// objects and the verbs may be shortened to any prefix; the first match in the order of
// these tables wins, which is ip's order.
var objects = []Object{ObjectState, ObjectPolicy, ObjectMonitor}

type verbName struct {
	name string
	verb Verb
}

var stateVerbs = []verbName{
	{"add", VerbAdd}, {"update", VerbUpdate}, {"allocspi", VerbAllocSPI}, {"delete", VerbDelete},
	{"deleteall", VerbDeleteAll}, {"delall", VerbDeleteAll}, {"list", VerbList}, {"show", VerbList},
	{"lst", VerbList}, {"get", VerbGet}, {"flush", VerbFlush}, {"count", VerbCount},
}

var policyVerbs = []verbName{
	{"add", VerbAdd}, {"update", VerbUpdate}, {"delete", VerbDelete}, {"deleteall", VerbDeleteAll},
	{"delall", VerbDeleteAll}, {"list", VerbList}, {"show", VerbList}, {"lst", VerbList}, {"get", VerbGet},
	{"flush", VerbFlush}, {"count", VerbCount}, {"set", VerbSet}, {"setdefault", VerbSetDefault},
	{"getdefault", VerbGetDefault},
}

func objectNames() []string {
	var names []string
	for _, o := range objects {
		names = append(names, o.String())
	}
	return names
}

func (c *cursor) readObject() (Object, error) {
	if !c.more() {
		c.offer(objectNames()...)
		return 0, &SyntaxError{Problem: "nothing to do", Expected: objectNames()}
	}
	word := c.next()
	for _, o := range objects {
		if isAbbreviation(word, o.String()) {
			return o, nil
		}
	}
	return 0, c.wrong("is not something xfrm knows", objectNames()...)
}

// verbNames leaves out aliases.
func verbNames(verbs []verbName) []string {
	var names []string
	for _, v := range verbs {
		if v.name == v.verb.String() {
			names = append(names, v.name)
		}
	}
	return names
}

func (c *cursor) readVerb(object Object) (Verb, error) {
	verbs := stateVerbs
	switch object {
	case ObjectPolicy:
		verbs = policyVerbs
	case ObjectMonitor:
		return VerbMonitor, nil
	}
	if c.atGap() { // without a verb there are no further words
		c.offer(verbNames(verbs)...)
		return 0, c.wrong("needs a command after it")
	}
	if !c.more() {
		return VerbList, nil
	}
	word := c.next()
	for _, v := range verbs {
		if isAbbreviation(word, v.name) {
			return v.verb, nil
		}
	}
	return 0, c.wrong("is not a command", verbNames(verbs)...)
}

func isAbbreviation(word, of string) bool { return word != "" && strings.HasPrefix(of, word) }

// cursor walks over the words of a command.
type cursor struct {
	words        []string
	pos          int    // of the next word
	object, verb string // read so far
	env          Env
	// family is that of the addresses to come, 0 for any: what was asked for, else that of
	// the first.
	family uint16
	// inner are the vocabularies just left, which would have taken their words at innerPos,
	// the innermost first.
	inner     []vocabulary
	innerPos  int
	innerRoom [4]vocabulary // enough for most
	policy    policyBuilder // room for the one in the making
	tmpl      tmplBuilder
	// gap is behind the last word when the next one is asked for, else nil.
	gap *gap
}

func (c *cursor) more() bool { return c.pos < len(c.words) }

func (c *cursor) peek() string {
	if c.more() {
		return c.words[c.pos]
	}
	return ""
}

func (c *cursor) next() string {
	c.pos++
	return c.words[c.pos-1]
}

// context is the command being read, for errors.
func (c *cursor) context() string {
	if c.verb == "" {
		return c.object
	}
	return c.object + " " + c.verb
}

// value is the word after the keyword just read, what the caller says it is.
func (c *cursor) value(what string) (string, error) {
	c.want(what)
	if !c.more() {
		return "", c.wrong("needs a value")
	}
	return c.next(), nil
}

// wrong is an error about the word just read.
func (c *cursor) wrong(problem string, expected ...string) error {
	return c.wrongAt(c.pos-1, problem, expected...)
}

func (c *cursor) wrongAt(index int, problem string, expected ...string) error {
	e := &SyntaxError{Index: index, Context: c.context(), Problem: problem, Expected: expected}
	if index < 0 || index >= len(c.words) {
		return e
	}
	switch word := c.words[index]; {
	case word == "":
		e.Problem = "an empty word " + problem
	case mayBeKey(word):
		// Words out of order bring a key to where a keyword belongs.
		e.Problem = fmt.Sprintf("word %d (not shown: it may be a key) %s", index+1, problem)
	default:
		e.Word = word
	}
	return e
}

// mayBeKey tells a word that is longer than any number, name or address, or has more hexadecimal digits on end: those
// of IPv6 addresses have colons between them.
func mayBeKey(word string) bool {
	run, longest := 0, 0
	for i := range len(word) {
		if strings.IndexByte("0123456789abcdefABCDEF", word[i]) < 0 {
			run = -1
		}
		run++
		longest = max(longest, run)
	}
	return longest >= 16 || len(word) > 64
}

func (c *cursor) semantic(problem string) error {
	return &SemanticError{Context: c.context(), Problem: problem}
}

// semanticWord is an error about the word just read that ip counts as semantic.
func (c *cursor) semanticWord(problem string) error {
	e := c.wrong(problem).(*SyntaxError)
	if e.Word != "" {
		e.Problem = fmt.Sprintf("%q %s", e.Word, e.Problem)
	}
	return c.semantic(e.Problem)
}

// vocabulary is what may stand in one place.
type vocabulary interface {
	names() []string
}

// leave notes that the next word is none of v's. They are expected as well when nobody takes it.
func (c *cursor) leave(v vocabulary) {
	if c.innerPos != c.pos {
		c.inner, c.innerPos = c.inner[:0], c.pos
	}
	c.inner = append(c.inner, v)
}

// innerAt are the words that vocabularies just left would have taken at pos.
func (c *cursor) innerAt(pos int) (words []string) {
	if c.innerPos == pos {
		for _, v := range slices.Backward(c.inner) {
			words = append(words, v.names()...)
		}
	}
	return words
}

// maxWords is how many keywords a grammar has at most.
const maxWords = 64

// grammar is the table of the keywords that may stand in one place; T is what they fill
// in.
type grammar[T any] struct {
	words []keyword[T]
	index map[string]int // of words, by name
}

func newGrammar[T any](words ...[]keyword[T]) grammar[T] {
	g := grammar[T]{words: slices.Concat(words...), index: make(map[string]int)}
	for i := range g.words {
		g.index[g.words[i].name] = i
	}
	return g
}

type keyword[T any] struct {
	name  string
	parse func(*cursor, T) error // called with the cursor behind the keyword
	// once forbids to repeat the keyword. ip lets most be repeated: the last one counts.
	once bool
	// over reports whether the keyword is one of a group that stands together and that has
	// come. It is no longer a word of this grammar, but may be one of that around it.
	over func(T) bool
	// taken reports whether parse would refuse what the keyword says, as that has been said.
	taken func(T) bool
	// group is what the keywords that stand together are called.
	group string
}

// parse reads keywords up to the first word that is not in the table, and tells how many
// it read.
func (g *grammar[T]) parse(c *cursor, t T) (int, error) {
	var seen [maxWords]bool
	n := 0
	for ; c.more(); n++ {
		i := g.find(c.peek())
		if i < 0 {
			break
		}
		k := &g.words[i]
		if k.over != nil && k.over(t) {
			break
		}
		c.pos++
		if k.once && seen[i] {
			return n, c.wrong("is given twice")
		}
		seen[i] = true
		if err := k.parse(c, t); err != nil {
			return n, err
		}
	}
	for i := 0; c.atGap() && i < len(g.words); i++ {
		k := &g.words[i]
		if k.once && seen[i] || k.over != nil && k.over(t) || k.taken != nil && k.taken(t) {
			continue
		}
		c.offer(k.name)
	}
	c.leave(g)
	return n, nil
}

// parseAll is parse for the last grammar in line: what it does not take nobody takes.
func (g *grammar[T]) parseAll(c *cursor, t T) error {
	if _, err := g.parse(c, t); err != nil {
		return err
	}
	if c.more() {
		c.pos++
		if i := g.find(c.words[c.pos-1]); i >= 0 {
			return c.wrong("comes too late: the words of " + g.words[i].group + " must stand together")
		}
		return c.wrong("is not a word here", c.innerAt(c.pos-1)...)
	}
	return nil
}

// find is the index of a keyword, -1 if it is none.
func (g *grammar[T]) find(name string) int {
	if i, ok := g.index[name]; ok {
		return i
	}
	return -1
}

func (g *grammar[T]) names() []string {
	names := make([]string, len(g.words))
	for i := range g.words {
		names[i] = g.words[i].name
	}
	return names
}
