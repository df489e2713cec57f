package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"espalier/verdict/observe"
)

// Sequences of the terminal (ECMA-48, xterm).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the other screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K" // what is left of the line
	clearBelow  = "\x1b[J"
)

// watching shows the status again and again until ctx ends, which is not an error. On a terminal it
// takes the place of the one before; what was there before comes back, and the last status below
// it.
func (r *statusRun) watching(ctx context.Context, choice sadChoice, engine engine, observer *observe.Observer) (err error) {
	rows := terminalRows(r.out)
	redraw := rows > 0 && !r.format.isData()
	var last []byte
	if redraw {
		io.WriteString(r.out, enterScreen)
		defer func() {
			io.WriteString(r.out, leaveScreen)
			r.out.Write(last)
		}()
	}
	for n := 0; ; n++ {
		v, err := r.look(ctx, choice, engine, observer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := r.show(&text, v); err != nil {
			return err
		}
		if redraw {
			last = text.Bytes()
			_, err = io.WriteString(r.out, frame(text.String(), terminalRows(r.out)))
		} else {
			if n > 0 && !r.format.isData() {
				io.WriteString(r.out, "\n")
			}
			_, err = r.out.Write(text.Bytes())
		}
		if err != nil {
			return err
		}
	}
}

// frame is text for a screen of so many rows: what does not fit is left out at the end.
func frame(text string, rows int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if rows > 0 && len(lines) > rows {
		lines = append(lines[:rows-1], "… (-o wide is shorter)")
	}
	return home + strings.Join(lines, clearLine+"\r\n") + clearLine + clearBelow
}

// terminalRows is 0 for what is no terminal.
func terminalRows(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	_, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return rows
}
