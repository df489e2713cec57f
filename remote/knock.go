package remote

import (
	"context"
	"errors"
	"fmt"
)

// Knock makes a connection that shares nothing with others, and ends it at once: it tells whether the
// host can be reached and lets the user in now. It asks as [Dial] does. As nothing is said by it, it may be
// made by a quicker key exchange. Errors are *Error, or ctx's.
func Knock(ctx context.Context, dest string, opt Options) error {
	if err := CheckDestination(dest); err != nil {
		return err
	}
	opt.Fresh = true
	if opt.Alone {
		opt.Terminal = nil
	}
	err := knock(ctx, dest, opt, false)
	var e *Error
	if opt.Terminal == nil || !errors.As(err, &e) || e.Reason != Denied && e.Reason != Unverified {
		return err
	}
	opt.Terminal.Lock()
	defer opt.Terminal.Unlock()
	return knock(ctx, dest, opt, true)
}

func knock(ctx context.Context, dest string, opt Options, prompts bool) error {
	args := sshArguments(dest, "true", opt, prompts)
	if !prompts { // else a password is sent
		args = append(quick(ctx, opt, args), args...)
	}
	p, err := startSSH(opt, args, prompts, &relay{host: dest})
	if err != nil {
		return &Error{dest, Misused, err.Error()}
	}
	defer p.stdout.Close()
	p.stdin.Close()
	if !prompts { // a person takes as long as it takes
		var cancel context.CancelFunc
		patience := startPatience + opt.connect()
		ctx, cancel = context.WithTimeoutCause(ctx, patience, &Error{dest, Unresponsive, fmt.Sprintf("ssh has connected, or tries to; nothing came of it for %s", patience)})
		defer cancel()
	}
	err = p.within(ctx, func() error {
		<-p.exited
		return nil
	})
	switch status := p.status(); {
	case err != nil:
		return err
	case status == 255:
		return sshFailure(dest, p.stderr.said())
	case status != 0:
		return &Error{dest, Unexpected, fmt.Sprintf("the login's shell ends with status %d: %s", status, lastLine(p.stderr.said()))}
	}
	return nil
}
