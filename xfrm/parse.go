package xfrm

import (
	"fmt"
	"strings"
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
	c := &cursor{words: words, env: &env, family: env.Family}
	return c.command()
}

func (c *cursor) command() (*Command, error) {
	object, err := c.object()
	if err != nil {
		return nil, err
	}
	cmd := &Command{Object: object}
	c.context = object.String()
	if cmd.Verb, err = c.verb(object); err != nil {
		return nil, err
	}
	switch object {
	case ObjectState:
		c.context += " " + cmd.Verb.String()
		err = c.stateCommand(cmd)
	case ObjectPolicy:
		c.context += " " + cmd.Verb.String()
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

func (c *cursor) object() (Object, error) {
	var names []string
	for _, o := range objects {
		names = append(names, o.String())
	}
	if !c.more() {
		c.offer(names...)
		return 0, &SyntaxError{Problem: "nothing to do", Expected: names}
	}
	word := c.next()
	for _, o := range objects {
		if isAbbreviation(word, o.String()) {
			return o, nil
		}
	}
	return 0, c.wrong("is not something xfrm knows", names...)
}

func (c *cursor) verb(object Object) (Verb, error) {
	verbs := stateVerbs
	switch object {
	case ObjectPolicy:
		verbs = policyVerbs
	case ObjectMonitor:
		return VerbMonitor, nil
	}
	var names []string
	for _, v := range verbs {
		if v.name == v.verb.String() {
			names = append(names, v.name)
		}
	}
	if c.atGap() { // without a verb there are no further words
		c.offer(names...)
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
	return 0, c.wrong("is not a command", names...)
}

func isAbbreviation(word, of string) bool { return word != "" && strings.HasPrefix(of, word) }

// cursor walks over the words of a command.
type cursor struct {
	words   []string
	pos     int // of the next word
	context string
	env     *Env
	// family is that of the addresses to come, 0 for any: what was asked for, else that of
	// the first.
	family uint16
	// inner are the words that the grammar just left would have taken at pos. They are
	// offered as well when nobody takes the word there.
	inner    []string
	innerPos int
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

// value is the word after the keyword just read: one of words, or what the caller says it is.
func (c *cursor) value(what string, words ...string) (string, error) {
	c.offer(words...)
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
	e := &SyntaxError{Index: index, Context: c.context, Problem: problem, Expected: expected}
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

// mayBeKey tells a word that is longer than any number, name or address.
func mayBeKey(word string) bool {
	return strings.HasPrefix(word, "0x") && len(word) > 18 || len(word) > 64
}

func (c *cursor) semantic(problem string) error {
	return &SemanticError{Context: c.context, Problem: problem}
}

// semanticWord is an error about the word just read that ip counts as semantic.
func (c *cursor) semanticWord(problem string) error {
	e := c.wrong(problem).(*SyntaxError)
	if e.Word != "" {
		e.Problem = fmt.Sprintf("%q %s", e.Word, e.Problem)
	}
	return c.semantic(e.Problem)
}

// grammar is the table of the keywords that may stand in one place; T is what they fill
// in.
type grammar[T any] struct {
	words []keyword[T]
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
	seen := map[string]bool{}
	n := 0
	for ; c.more(); n++ {
		k := g.find(c.peek())
		if k == nil || k.over != nil && k.over(t) {
			break
		}
		c.pos++
		if k.once && seen[k.name] {
			return n, c.wrong("is given twice")
		}
		seen[k.name] = true
		if err := k.parse(c, t); err != nil {
			return n, err
		}
	}
	for i := range g.words {
		k := &g.words[i]
		if k.once && seen[k.name] || k.over != nil && k.over(t) || k.taken != nil && k.taken(t) {
			continue
		}
		c.offer(k.name)
	}
	c.inner, c.innerPos = append(g.names(), c.innerAt(c.pos)...), c.pos
	return n, nil
}

// parseAll is parse for the last grammar in line: what it does not take nobody takes.
func (g *grammar[T]) parseAll(c *cursor, t T) error {
	if _, err := g.parse(c, t); err != nil {
		return err
	}
	if c.more() {
		c.pos++
		if k := g.find(c.words[c.pos-1]); k != nil {
			return c.wrong("comes too late: the words of " + k.group + " must stand together")
		}
		return c.wrong("is not a word here", c.innerAt(c.pos-1)...)
	}
	return nil
}

func (c *cursor) innerAt(pos int) []string {
	if c.innerPos == pos {
		return c.inner
	}
	return nil
}

func (g *grammar[T]) find(name string) *keyword[T] {
	for i := range g.words {
		if g.words[i].name == name {
			return &g.words[i]
		}
	}
	return nil
}

func (g *grammar[T]) names() []string {
	names := make([]string, len(g.words))
	for i := range g.words {
		names[i] = g.words[i].name
	}
	return names
}
