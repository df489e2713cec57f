package xfrm

import "slices"

// What a [Candidate] without a word is. Those not listed are numbers and names that only the
// user knows, such as "a mark".
const (
	ValueAddress   = "an address"
	ValueInterface = "an interface"
	ValueSPI       = "an SPI"
	ValueReqid     = "a reqid"
	ValueIndex     = "an index"
	ValueKey       = "a key"
	ValueFile      = "a file"
)

// Candidate is what may come next in a command: a word of the grammar, or any value of a kind.
type Candidate struct {
	Word  string // "" if Value is set
	Value string // what goes there: one of the Value constants or another phrase
}

// Complete tells what may follow words, which follow `ip xfrm` themselves: in the order of the
// grammar, nothing if words are not in it or if nothing may follow. It is what [Parse] would take
// next. Aliases (show for list) are left out. Of env only Family counts: interfaces are not looked
// up, and no key is read.
func Complete(words []string, env Env) []Candidate {
	anyInterface := func(string) (int, error) { return 1, nil }
	anyKey := func(string) ([]byte, error) { return []byte("0x0"), nil }
	c := &cursor{
		words:  words,
		env:    Env{Interface: anyInterface, KeyFile: anyKey, Family: env.Family},
		family: env.Family,
		gap:    &gap{},
	}
	c.command() // its error says that a command is not whole, or that its beginning is wrong
	return c.gap.candidates
}

// gap collects what the parser would take where the words end. What it does beyond that is of no
// interest.
type gap struct {
	candidates []Candidate
}

// atGap reports whether the next word is the one that is asked for.
func (c *cursor) atGap() bool { return c.gap != nil && !c.more() }

// offer says that any of words may come next. It does nothing but at the gap.
func (c *cursor) offer(words ...string) {
	if !c.atGap() {
		return
	}
	for _, w := range words {
		c.candidate(Candidate{Word: w})
	}
}

// want says that a value may come next. It does nothing but at the gap.
func (c *cursor) want(what string) {
	if what != "" && c.atGap() {
		c.candidate(Candidate{Value: what})
	}
}

func (c *cursor) candidate(candidate Candidate) {
	if !slices.Contains(c.gap.candidates, candidate) {
		c.gap.candidates = append(c.gap.candidates, candidate)
	}
}
