package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"espalier/xfrm"
)

// batchJobs parses a whole script and reports every line that is wrong.
func (r *xfrmRun) batchJobs(words []string) ([]job, error) {
	if len(words) > 0 {
		return nil, r.fail(job{}, &exitError{exitXfrmSyntax, errors.New("with -batch the commands come from the file, not from the command line")})
	}
	script, err := r.openBatch()
	if err != nil {
		return nil, r.fail(job{}, &exitError{exitXfrmSemantic, err})
	}
	defer script.Close()
	debug.SetGCPercent(lavishGC)
	var jobs []job
	var failures []string
	code := 0
	err = r.parseScript(script, func(line int, cmd *xfrm.Command, err error) {
		j := job{Command: cmd, line: line}
		if err == nil {
			jobs = append(jobs, j)
			return
		}
		err = r.fail(j, parseFailure(err))
		failures = append(failures, err.Error())
		code = max(code, exitCode(err)) // a syntax error before a semantic one
	})
	var bad *xfrm.ScriptError
	if errors.As(err, &bad) {
		return nil, r.fail(job{line: bad.Line}, &exitError{exitXfrmSyntax, errors.New(bad.Problem)})
	}
	if err != nil {
		return nil, r.fail(job{}, fmt.Errorf("read %s: %w", r.batch, err))
	}
	if failures != nil {
		return nil, &exitError{code, fmt.Errorf("%s\nnothing was sent", strings.Join(failures, "\n"))}
	}
	return jobs, nil
}

// lavishGC is a GC percentage that trades memory for time, for a run that is over soon and needs
// either all it makes until its end (a batch) or hardly any of it (a list).
const lavishGC = 400

// openBatch opens the script, and warns if it holds keys for all to see.
func (r *xfrmRun) openBatch() (io.ReadCloser, error) {
	if r.batch == "-" {
		return io.NopCloser(r.stdin), nil
	}
	f, err := os.Open(r.batch)
	if err != nil {
		return nil, plainPathError(err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(plainPathError(err), f.Close())
	}
	r.batchIsOpen = info.Mode().Perm()&0o077 != 0
	return f, nil
}
