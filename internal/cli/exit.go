package cli

import (
	"context"
	"errors"
)

// Exit codes. `espalier xfrm` uses those of ip for the first three kinds of failure.
const (
	exitFailed  = 1   // the command could not be carried out, or makes no sense
	exitUsage   = 2   // the command line is wrong (not of xfrm)
	exitUnmet   = 3   // something required was found not to hold
	exitUnclear = 4   // whether it holds is not known
	exitStopped = 130 // interrupted

	exitXfrmSemantic = 1   // xfrm: the words do not go together
	exitXfrmEngine   = 2   // xfrm: the kernel or the device refused
	exitXfrmUnmet    = 3   // xfrm: --require-offload
	exitXfrmSyntax   = 255 // xfrm: the words are not in the grammar
)

// exitError is an error that knows the exit code it ends with. err may be nil when all
// there is to say has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usageError(err error) error { return &exitError{exitUsage, err} }

// exitCode is the exit code err ends with.
func exitCode(err error) int {
	var e *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, context.Canceled):
		return exitStopped
	}
	return exitFailed
}
