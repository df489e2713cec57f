package remote

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of a connection. The zero value uses the user's configuration, and the login's rights.
type Options struct {
	SSH    string // the program; "" is ssh, in PATH
	Config string // a file instead of ~/.ssh/config (ssh -F)
	// Port, Identity and Jump are ssh's -p, -i (the path of a key) and -J; zero values leave them to the
	// configuration.
	Port     uint16
	Identity string
	Jump     string

	Root    Root          // "" is AsLogin
	Connect time.Duration // to reach the host; 0 is 10 s
	Stderr  io.Writer     // gets what the far side says besides answers, the host's name before each line; nil: nobody
	// Terminal is held while ssh asks a person for a password, or whether a key is right: connections
	// made at the same time share it. nil: ssh never asks.
	Terminal sync.Locker
	// Fresh makes a new connection even if the user's configuration shares one (ControlMaster).
	Fresh bool
	// Alone is as a timer asks: without the user's ssh-agent, terminal and environment.
	Alone bool

	pace pace // zero: usualPace
}

func (o Options) connect() time.Duration {
	if o.Connect <= 0 {
		return 10 * time.Second
	}
	return o.Connect
}

func (o Options) program() string { return cmp.Or(o.SSH, "ssh") }

// environment of ssh; nil: this process's.
func (o Options) environment() []string {
	if !o.Alone {
		return nil
	}
	return []string{"PATH=" + os.Getenv("PATH"), "LANG=C"}
}

// HasTerminal reports whether ssh could ask a person: it does so on the terminal of the process,
// wherever its standard input and output go.
func HasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

const (
	startPatience  = 30 * time.Second // for the login's shell, and for espalier to say hello
	stallPatience  = 60 * time.Second // for a piece of the copy to be taken
	closePatience  = 20 * time.Second // for the far side to undo what it was about to do
	spareKilobytes = 1024             // beside the copy
)

// Dial connects to a host. It asks nobody at first; if a key or password is missing and
// opt.Terminal is there, it tries again and lets ssh ask. Errors are *Error, or ctx's.
func Dial(ctx context.Context, dest string, opt Options) (*Conn, error) {
	if err := CheckDestination(dest); err != nil {
		return nil, err
	}
	program, err := ownProgram()
	if err != nil {
		return nil, err
	}
	c, err := dial(ctx, dest, opt, program, false)
	var e *Error
	if opt.Terminal == nil || !errors.As(err, &e) || e.Reason != Denied && e.Reason != Unverified {
		return c, err
	}
	opt.Terminal.Lock()
	defer opt.Terminal.Unlock()
	return dial(ctx, dest, opt, program, true)
}

// Child connects to a process of its own on this host: what it holds is undone even if this process
// is killed. See [Local] for one that needs no process.
func Child(ctx context.Context, host string, opt Options) (*Conn, error) {
	program, err := ownProgram()
	if err != nil {
		return nil, err
	}
	opt.SSH, opt.Root = "/proc/self/exe", AsLogin
	d := &dialing{dest: host, opt: opt, program: program, nonce: newNonce()}
	return d.connect(ctx, []string{AgentCommand, d.nonce}, func(ctx context.Context) (Hello, Session, error) {
		hello, err := d.greet(ctx, true)
		return hello, Session{}, err
	})
}

// dialing is a connection that is being made.
type dialing struct {
	dest    string
	opt     Options
	program *program
	ssh     *process
	out     *bufio.Reader
	nonce   string
	prompts bool
	copies  bool   // whatever is there, this executable is copied
	found   bool   // what runs there was there: it may turn out to be another one
	noise   []byte // what the login's shell said last, instead of what was expected
}

func dial(ctx context.Context, dest string, opt Options, program *program, prompts bool) (*Conn, error) {
	d := &dialing{dest: dest, opt: opt, program: program, nonce: newNonce(), prompts: prompts}
	args := func() []string { return sshArguments(dest, bootstrapCommand(d.nonce, opt.Root), opt, prompts) }
	c, err := d.connect(ctx, args(), d.bootstrap)
	e, ok := errors.AsType[*Error](err)
	if !ok || !d.found || e.Reason != Unsuited && e.Reason != Unexpected {
		return c, err
	}
	// It has the size of this one, and is not the same.
	d = &dialing{dest: dest, opt: opt, program: program, nonce: newNonce(), prompts: prompts, copies: true}
	return d.connect(ctx, args(), d.bootstrap)
}

// connect starts a process, goes with it as far as espalier's hello, and hands it to a Conn.
func (d *dialing) connect(ctx context.Context, args []string, meet func(context.Context) (Hello, Session, error)) (*Conn, error) {
	var err error
	if d.ssh, err = startSSH(d.opt, args, d.prompts, &relay{host: d.dest}); err != nil {
		return nil, &Error{d.dest, Misused, err.Error()}
	}
	d.out = bufio.NewReaderSize(d.ssh.stdout, 32<<10)
	hello, session, err := meet(ctx)
	if err != nil {
		d.ssh.finish(2 * time.Second)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, d.explain(err)
	}
	to := d.opt.Stderr
	if to == nil {
		to = io.Discard
	}
	d.ssh.stderr.open(to)
	p := d.opt.pace
	if p == (pace{}) {
		p = usualPace
	}
	return newConn(d.dest, hello, session, d.out, d.ssh.stdin, func() { d.ssh.stdin.Close() }, d.finish, p), nil
}

// bootstrap goes from the login's shell to espalier's hello.
func (d *dialing) bootstrap(ctx context.Context) (hello Hello, session Session, err error) {
	var f facts
	patience := startPatience + d.opt.connect()
	if d.prompts {
		patience = 0 // a person takes as long as it takes
	}
	err = d.step(ctx, patience, "ssh has connected, or tries to; the login's shell", func() error {
		_, rest, err := d.await("facts")
		if err == nil {
			f, err = parseFacts(rest)
		}
		return err
	})
	if err != nil {
		return hello, session, err
	}
	session.Client, _ = netip.ParseAddr(f.client)
	session.Server, _ = netip.ParseAddr(f.server)
	port, _ := strconv.ParseUint(f.port, 10, 16)
	session.Port = uint16(port)
	same, err := d.choose(ctx, f)
	if err != nil {
		return hello, session, err
	}
	if hello, err = d.greet(ctx, same); err != nil {
		return hello, session, d.notStarted(f, err)
	}
	if d.opt.Root == RootRequired && hello.UID != 0 {
		return hello, session, &Error{d.dest, NotRoot, fmt.Sprintf("espalier runs there as user %d", hello.UID)}
	}
	return hello, session, nil
}

// greet exchanges hellos with espalier; same tells whether it must be this very executable.
func (d *dialing) greet(ctx context.Context, same bool) (hello Hello, err error) {
	err = d.step(ctx, startPatience, "espalier was started there, and", func() (err error) {
		if _, _, err = d.await(agentWord); err != nil {
			return err
		}
		if hello, err = readHello(d.out); err != nil {
			return err
		}
		return writeHello(d.ssh.stdin, Hello{Version: Version()})
	})
	if err == nil && (same && hello.Hash != d.program.hash || hello.Version != Version()) {
		err = &Error{d.dest, Unsuited, fmt.Sprintf("espalier there is %s, here it is %s", plain(hello.Version), Version())}
	}
	return hello, err
}

// step bounds a part of the way; what says who did not answer.
func (d *dialing) step(ctx context.Context, patience time.Duration, what string, f func() error) error {
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, patience, &Error{d.dest, Unresponsive, fmt.Sprintf("%s said nothing for %s", what, patience)})
		defer cancel()
	}
	return d.ssh.within(ctx, f)
}

func (d *dialing) await(words ...string) (word, rest string, err error) {
	word, rest, d.noise, err = awaitLine(d.out, d.nonce, words...)
	return word, rest, err
}

// choose has an espalier of the far side's run, or copies this one. same tells whether it must be
// this very executable.
func (d *dialing) choose(ctx context.Context, f facts) (same bool, err error) {
	if f.os != "Linux" {
		return false, &Error{d.dest, Unsuited, fmt.Sprintf("it runs %s, and espalier is for Linux", plain(f.os))}
	}
	// Its hash is asked of itself: the shell would take longer for it than all the rest.
	if f.path != "" && f.size == strconv.FormatInt(d.program.size, 10) && !d.copies {
		d.found = true
		return true, d.say(ctx, "run")
	}
	if f.machine == machine() {
		return true, d.copy(ctx)
	}
	if f.path != "" {
		return false, d.say(ctx, "run")
	}
	return false, &Error{d.dest, Unsuited, fmt.Sprintf("it is %s, and this espalier is for %s: install the same version of espalier for %[1]s there, "+
		"for instance as /usr/local/bin/espalier", plain(f.machine), machine())}
}

func (d *dialing) say(ctx context.Context, line string) error {
	return d.step(ctx, startPatience, "the login's shell", func() error {
		_, err := io.WriteString(d.ssh.stdin, line+"\n")
		return err
	})
}

// copy sends this executable.
func (d *dialing) copy(ctx context.Context) error {
	if err := d.say(ctx, fmt.Sprintf("copy %d %d", d.program.size, d.program.size>>10+spareKilobytes)); err != nil {
		return err
	}
	err := d.step(ctx, startPatience, "the login's shell", func() error {
		word, _, err := d.await("place", "noplace")
		if word == "noplace" {
			err = &Error{d.dest, Unsuited, fmt.Sprintf("no directory there takes a program of %d MiB: /tmp, /var/tmp, /dev/shm, $XDG_RUNTIME_DIR and "+
				"$HOME are full, not writable, or mounted noexec; install espalier there, for instance as /usr/local/bin/espalier", d.program.size>>20)}
		}
		return err
	})
	if err != nil {
		return err
	}
	const piece = 256 << 10
	for at := int64(0); at < d.program.size; at += piece {
		err := d.step(ctx, stallPatience, "the copy of espalier is under way, and the far side", func() error {
			_, err := io.Copy(d.ssh.stdin, io.NewSectionReader(d.program.file, at, min(piece, d.program.size-at)))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// notStarted explains what went wrong once espalier should have run.
func (d *dialing) notStarted(f facts, err error) error {
	if !errors.Is(err, io.EOF) && !isBroken(err) {
		return err
	}
	d.ssh.finish(2 * time.Second)
	said := lastLine(d.ssh.stderr.said())
	switch status := d.ssh.status(); {
	case status == 255:
		return err
	case f.uid != "0" && d.opt.Root == RootRequired && strings.Contains(said, "sudo"):
		return &Error{d.dest, NotRoot, fmt.Sprintf("this needs root, and sudo -n was refused (%s): log in as root, or let sudo run it without a password, by a line in sudoers as\n"+
			"    NAME ALL=(root) NOPASSWD: ALL", said)}
	case said == "":
		return &Error{d.dest, Unexpected, fmt.Sprintf("espalier did not start there; the shell ended with status %d", status)}
	default:
		return &Error{d.dest, Unexpected, fmt.Sprintf("espalier did not start there: %s", said)}
	}
}

// explain makes an *Error of whatever ended the way.
func (d *dialing) explain(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	said, noise := d.ssh.stderr.said(), lastLine(string(d.noise))
	switch status := d.ssh.status(); {
	case errors.Is(err, errNoise), errors.Is(err, errFrame):
		return &Error{d.dest, Unexpected, fmt.Sprintf("%v: the login's shell prints, for instance, %q", err, noise)}
	case status == 255:
		return sshFailure(d.dest, said)
	case noise != "":
		return &Error{d.dest, Unexpected, fmt.Sprintf("the login's shell says %q and ends with status %d, without running a command", noise, status)}
	case strings.TrimSpace(said) != "":
		return &Error{d.dest, Unexpected, fmt.Sprintf("the login's shell ends with status %d: %s", status, lastLine(said))}
	}
	return &Error{d.dest, Unexpected, fmt.Sprintf("the login's shell ends with status %d, without running a command (%v)", d.ssh.status(), err)}
}

// finish ends a connection that was made; ssh's own end is an error.
func (d *dialing) finish() error {
	d.ssh.finish(closePatience)
	if d.ssh.status() != 255 {
		return nil
	}
	detail := lastLine(d.ssh.stderr.said())
	if detail == "" {
		detail = "ssh ended it"
	}
	return &Error{d.dest, Lost, detail}
}

// isBroken tells ends of a pipe.
func isBroken(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.EPIPE)
}
