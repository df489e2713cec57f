package remote

import (
	"bytes"
	"context"
	"io"
)

// CommandQuestion asks for a command of espalier's.
type CommandQuestion struct {
	Arguments []string `json:"arguments"` // without the command's name; nothing secret
	Stdin     []byte   `json:"stdin,omitempty"`
}

// CommandAnswer is what a command printed, and how it ended.
type CommandAnswer struct {
	Code   int    `json:"code"` // exit status
	Stdout []byte `json:"stdout"`
	Stderr string `json:"stderr"`
}

// Command makes an operation of a command that runs in this process and returns its exit status.
// What it prints to standard error is progress, line by line.
func Command(run func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int) Operation {
	return JSON(func(ctx context.Context, q CommandQuestion, say Progress) (CommandAnswer, error) {
		var stdout, stderr bytes.Buffer
		lines := &lineWriter{say: say}
		code := run(ctx, q.Arguments, bytes.NewReader(q.Stdin), &stdout, io.MultiWriter(&stderr, lines))
		lines.end()
		return CommandAnswer{code, stdout.Bytes(), stderr.String()}, nil
	})
}

// Run runs a command on the far side that is served there by its name. err says that it could not
// be run; how it ended is in the answer. say may be nil.
func (c *Conn) Run(ctx context.Context, name string, args []string, stdin []byte, say Progress) (CommandAnswer, error) {
	return Call[CommandAnswer](ctx, c, name, CommandQuestion{args, stdin}, say)
}

// lineWriter hands on lines.
type lineWriter struct {
	say  Progress
	part []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for {
		line, rest, whole := bytes.Cut(w.part, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		w.say(string(line))
		w.part = rest
	}
}

func (w *lineWriter) end() {
	if len(w.part) > 0 {
		w.say(string(w.part))
	}
}
