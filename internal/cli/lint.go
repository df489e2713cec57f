package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"espalier/lint"
	"espalier/xfrm"
)

// lintRun is one `espalier lint`.
type lintRun struct {
	fix    bool
	to     string
	kernel xfrm.Release
	format format
	sarif  bool

	stdin          io.Reader
	stdout, stderr io.Writer
}

func newLintCommand() *cobra.Command {
	var r lintRun
	var output, kernel string
	cmd := &cobra.Command{
		Use:   "lint [HOST=]FILE…",
		Short: "Find what is wrong in scripts of ip xfrm, without running them",
		Long: `Read scripts of ip xfrm commands, of one or more hosts (- is standard input), and say what will not work or
is not safe: templates that no SA fits, SAs that are not the same at both ends, keys that are used twice or
that others can see, what Linux or the NIC will refuse. Each finding comes with its line, with what happens on
Linux and which counter of /proc/net/xfrm_stat tells of it, and with what to do. Nothing is run, and no key is
shown.

A file is taken for one host; several with an address of their own in common are of one. HOST=FILE names it.
What takes a shell to know (loops, substitutions) is told and left out. Keys in files (@FILE) are not read.

--fix writes corrected scripts to FILE.fixed, or into the directory of --to, for their owner alone to read, and
never over a file that is there. What can be meant in more than one way is left, and told.

Exit status: 0 if nothing is wrong (or left to do, with --fix), 3 if something is, 1 if a file cannot be read or
written, 2 for a wrong command line. All findings: docs/lint.md.`,
		Example: `  espalier lint first-server.xfrm.sh second-server.xfrm.sh
  espalier lint --fix --to corrected *.sh
  espalier lint db1=states.sh db1=policies.sh db2=other.sh
  espalier lint -o sarif *.sh > lint.sarif`,
		Args: usageArgs(func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("which file? (- is standard input)")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := choose("-o", output, map[string]func(){
				"text": func() {}, "json": func() { r.format = formatJSON }, "yaml": func() { r.format = formatYAML }, "sarif": func() { r.sarif = true },
			})
			if kernel != "" {
				var bad error
				if r.kernel, bad = xfrm.ParseRelease(kernel); bad != nil || r.kernel == (xfrm.Release{}) {
					err = errors.Join(err, fmt.Errorf("--kernel %s: a release such as 6.12 goes here", shorten(kernel)))
				}
			}
			if r.to != "" && !r.fix {
				err = errors.Join(err, errors.New("--to says where --fix writes: give both"))
			}
			if err != nil {
				return usageError(err)
			}
			r.stdin, r.stdout, r.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return r.run(args)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&r.fix, "fix", false, "write corrected scripts")
	f.StringVar(&r.to, "to", "", "with --fix: the `DIRECTORY` for them, made if it is not there")
	f.StringVar(&kernel, "kernel", "", "the scripts are for this `RELEASE` of Linux, such as 6.12 (default the newest)")
	f.StringVarP(&output, "output", "o", "text", "text, json, yaml or sarif")
	return cmd
}

func (r *lintRun) run(args []string) error {
	if r.fix && r.to == "" && slices.Contains(args, "-") {
		return usageError(errors.New("--fix writes beside the scripts: with standard input say --to DIRECTORY"))
	}
	sources, err := readScripts(args, r.stdin)
	if err != nil {
		return err
	}
	report, err := lint.Scripts(sources, lint.Options{Kernel: r.kernel, KeyMode: keyMode})
	if err != nil {
		return &exitError{exitFailed, err}
	}
	view := viewLint(report)
	if r.fix {
		fixed, err := report.Fix()
		if err != nil {
			return err
		}
		if view.Fixed, err = r.write(sources, fixed); err != nil {
			return &exitError{exitFailed, err}
		}
		view.OK = len(fixed.Left) == 0
	}
	switch {
	case r.sarif:
		err = writeSARIF(r.stdout, report.Findings)
	case r.format.isData():
		err = writeData(r.stdout, r.format, view)
	default:
		err = writeLint(r.stdout, view)
	}
	if err == nil && !view.OK {
		err = &exitError{exitUnmet, nil}
	}
	return err
}

// readScripts reads FILE and HOST=FILE.
func readScripts(args []string, stdin io.Reader) (sources []lint.Source, err error) {
	seen := map[string]bool{}
	for _, arg := range args {
		s := lint.Source{Name: arg}
		if host, file, named := strings.Cut(arg, "="); named && host != "" && file != "" && !strings.Contains(host, "/") {
			if _, err := os.Stat(arg); err != nil {
				s.Host, s.Name = host, file
			}
		}
		if seen[s.Name] {
			return nil, usageError(fmt.Errorf("%s is given twice", s.Name))
		}
		seen[s.Name] = true
		if err := readScript(&s, stdin); err != nil {
			return nil, &exitError{exitFailed, plainPathError(err)}
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// maxScript is what a script may have, in bytes.
const maxScript = 16 << 20

func readScript(s *lint.Source, stdin io.Reader) error {
	in := stdin
	if s.Name == "-" {
		s.Name = "stdin"
	} else {
		f, err := os.Open(s.Name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		s.Mode, in = info.Mode(), f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxScript+1))
	s.Text = string(text)
	return err
}

// keyMode is that of a key's file, if it is on this host.
func keyMode(path string) (fs.FileMode, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	return info.Mode(), true
}

// write writes the corrected scripts that have anything corrected. If one cannot be written, none is left behind.
func (r *lintRun) write(sources []lint.Source, fixed *lint.Fixed) (*fixedView, error) {
	view := &fixedView{Files: []fixedFileView{}, Mended: append([]lint.Finding{}, fixed.Mended...), Left: append([]lint.Left{}, fixed.Left...)}
	if r.to != "" {
		if err := os.MkdirAll(r.to, 0o700); err != nil {
			return nil, plainPathError(err)
		}
	}
	corrected := map[string]bool{}
	for _, f := range fixed.Mended {
		corrected[f.File] = true
	}
	for i, s := range fixed.Scripts {
		if !corrected[s.Name] && s.Text == sources[i].Text {
			continue
		}
		to := s.Name + ".fixed"
		if r.to != "" {
			to = filepath.Join(r.to, filepath.Base(s.Name))
		}
		err := writeNew(to, []byte(s.Text), secret)
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("%s is there already: move it away, or say --to DIRECTORY", to)
		}
		if err != nil {
			for _, written := range view.Files {
				os.Remove(written.To)
			}
			return nil, err
		}
		view.Files = append(view.Files, fixedFileView{s.Name, to})
	}
	return view, nil
}
