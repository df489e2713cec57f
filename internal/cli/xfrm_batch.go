package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"espalier/xfrm"
)

// batchJobs parses a whole script and reports every line that is wrong.
func (r *xfrmRun) batchJobs(words []string) ([]job, error) {
	if len(words) > 0 {
		return nil, r.fail(job{}, &exitError{exitXfrmSyntax, errors.New("with -batch the commands come from the file, not from the command line")})
	}
	name, script, err := r.openBatch()
	if err != nil {
		return nil, r.fail(job{}, &exitError{exitXfrmSemantic, err})
	}
	defer script.Close()
	lines, err := xfrm.ParseScript(script)
	var bad *xfrm.ScriptError
	if errors.As(err, &bad) {
		j := job{line: bad.Line, place: fmt.Sprintf("%s:%d", name, bad.Line)}
		return nil, r.fail(j, &exitError{exitXfrmSyntax, errors.New(bad.Problem)})
	}
	if err != nil {
		return nil, r.fail(job{}, fmt.Errorf("read %s: %w", name, err))
	}
	var jobs []job
	var failures []string
	code := 0
	env := r.env()
	for _, line := range lines {
		j := job{line: line.Number, place: fmt.Sprintf("%s:%d", name, line.Number)}
		if j.Command, err = xfrm.Parse(line.Words, env); err != nil {
			err = r.fail(j, parseFailure(err))
			failures = append(failures, err.Error())
			code = max(code, exitCode(err)) // a syntax error before a semantic one
			continue
		}
		jobs = append(jobs, j)
	}
	if failures != nil {
		return nil, &exitError{code, fmt.Errorf("%s\nnothing was sent", strings.Join(failures, "\n"))}
	}
	return jobs, nil
}

// openBatch opens the script, and warns if it holds keys for all to see.
func (r *xfrmRun) openBatch() (string, io.ReadCloser, error) {
	if r.batch == "-" {
		return "stdin", io.NopCloser(r.stdin), nil
	}
	f, err := os.Open(r.batch)
	if err != nil {
		return "", nil, plainPathError(err)
	}
	info, err := f.Stat()
	if err != nil {
		return "", nil, errors.Join(plainPathError(err), f.Close())
	}
	r.batchIsOpen = info.Mode().Perm()&0o077 != 0
	return r.batch, f, nil
}
