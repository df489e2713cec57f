package cli

import (
	"io"
	"runtime"

	"espalier/xfrm"
)

// parseScript parses a script on all CPUs, and calls each for its lines in their order. The error
// is that of xfrm.Lines.
func (r *xfrmRun) parseScript(script io.Reader, each func(line int, cmd *xfrm.Command, err error)) (err error) {
	ahead := 2 * runtime.GOMAXPROCS(0)
	chunks, free := make(chan *chunk, ahead), make(chan *chunk, ahead)
	for range ahead {
		free <- newChunk()
	}
	go func() {
		defer close(chunks)
		send := func(c *chunk) {
			go c.parse(r.env())
			chunks <- c
		}
		c := <-free
		for line, bad := range xfrm.Lines(script) {
			if err = bad; err != nil {
				break
			}
			if c.add(line); len(c.lines) == chunkLines {
				send(c)
				c = <-free
			}
		}
		send(c)
	}()
	for c := range chunks {
		<-c.parsed
		for _, l := range c.lines {
			each(l.number, l.command, l.err)
		}
		c.lines, c.words = c.lines[:0], c.words[:0]
		free <- c
	}
	return err
}

// chunk is some lines of a script, and what they mean. It is used again for others.
type chunk struct {
	lines  []scriptLine
	words  []string // of all lines
	parsed chan struct{}
}

// chunkLines is enough to be worth a goroutine.
const chunkLines = 256

type scriptLine struct {
	number  int
	from    int // of its words, up to the next line's
	command *xfrm.Command
	err     error
}

func newChunk() *chunk {
	return &chunk{lines: make([]scriptLine, 0, chunkLines), parsed: make(chan struct{}, 1)}
}

// add copies a line, whose words are good until the next.
func (c *chunk) add(line xfrm.Line) {
	c.lines = append(c.lines, scriptLine{number: line.Number, from: len(c.words)})
	c.words = append(c.words, line.Words...)
}

func (c *chunk) parse(env xfrm.Env) {
	to := len(c.words)
	for i := len(c.lines) - 1; i >= 0; i-- {
		l := &c.lines[i]
		l.command, l.err = xfrm.Parse(c.words[l.from:to:to], env)
		to = l.from
	}
	c.parsed <- struct{}{}
}
