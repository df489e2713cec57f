package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Sequences of the terminal (ECMA-48, xterm).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the other screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K" // what is left of the line
	clearBelow  = "\x1b[J"
)

// patience is how long --watch goes on while it sees nothing.
const patience = 30 * time.Second

// watching shows the status again and again until ctx ends, which is not an error. On a terminal it
// takes the place of the one before; what was there before comes back, and the last status below
// it. A round that fails is shown, and others tried for a while: a driver or a device may be on its way back.
func (r *statusRun) watching(ctx context.Context, choice sadChoice) (err error) {
	_, rows := terminalSize(r.out)
	redraw := rows > 0 && !r.format.isData()
	var last []byte
	var shown *statusView
	if redraw {
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, unix.SIGWINCH)
		defer signal.Stop(resized)
		r.resized, r.fit = resized, func() {
			var text bytes.Buffer
			if shown != nil && r.show(&text, shown) == nil {
				r.put(text.String(), true, true)
			}
		}
		io.WriteString(r.out, enterScreen)
		defer func() {
			io.WriteString(r.out, leaveScreen)
			r.out.Write(last)
		}()
	}
	var failing time.Time // since when; zero: not
	for {
		if !failing.IsZero() {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(max(r.interval, time.Second)):
			}
		}
		var text bytes.Buffer
		err := r.round(ctx, choice, func(v *statusView) error {
			failing = time.Time{}
			text.Reset()
			if err := r.show(&text, v); err != nil {
				return err
			}
			again := last != nil
			last, shown = bytes.Clone(text.Bytes()), v
			return r.put(text.String(), redraw, again)
		})
		var torn *os.PathError
		switch {
		case ctx.Err() != nil:
			return nil
		case last == nil || errors.As(err, &torn) || !failing.IsZero() && time.Since(failing) > patience:
			return err
		case failing.IsZero():
			failing = time.Now()
		}
		text.Reset()
		if r.format.isData() {
			writeData(&text, r.format, failure{Schema: schemaOf("status"), Error: err.Error(), Exit: exitCode(err)})
		} else {
			fmt.Fprintf(&text, "%s\ntrying again\n", err)
		}
		if err := r.put(text.String(), redraw, true); err != nil {
			return err
		}
	}
}

// round opens the SAD and shows what is seen of it until that fails.
func (r *statusRun) round(ctx context.Context, choice sadChoice, show func(*statusView) error) error {
	engine, observer, err := r.open(choice)
	if err != nil {
		return err
	}
	defer engine.Close()
	defer observer.Close()
	for {
		v, err := r.look(ctx, choice, engine, observer)
		if err == nil {
			err = show(v)
		}
		if err != nil {
			return err
		}
	}
}

func (r *statusRun) put(text string, redraw, again bool) error {
	if redraw {
		columns, rows := terminalSize(r.out)
		text = frame(text, columns, rows)
	} else if again && !r.format.isData() {
		text = "\n" + text
	}
	_, err := io.WriteString(r.out, text)
	return err
}

// frame is text for a screen of so many columns and rows: what does not fit is left out, at the end of
// lines and of the text.
func frame(text string, columns, rows int) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if rows > 0 && len(lines) > rows {
		lines = append(lines[:rows-1], "… (more than fits)")
	}
	for i := range lines {
		lines[i] = cut(lines[i], columns)
	}
	return home + strings.Join(lines, clearLine+"\r\n") + clearLine + clearBelow
}

// cut leaves of a line what has room in so many columns. Colours (ECMA-48 SGR) take none, and stay.
func cut(line string, width int) string {
	if width <= 0 || columns(line) <= width {
		return line
	}
	var b strings.Builder
	at, colour := 0, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			colour = true
		case !colour:
			if at++; at > width {
				continue
			}
		}
		b.WriteRune(r)
		colour = colour && r != 'm'
	}
	return b.String()
}

// terminalSize is 0, 0 for what is no terminal.
func terminalSize(w io.Writer) (columns, rows int) {
	f, ok := fileOf(w)
	if !ok {
		return 0, 0
	}
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return columns, rows
}
