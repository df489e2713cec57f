package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// failure is a command that failed.
type failure struct {
	Schema string `json:"schema"`
	OK     bool   `json:"ok"` // false
	Line   int    `json:"line,omitempty"`
	Error  string `json:"error"`
	Exit   int    `json:"exit"`
}

// results is standard output, which knows whether there is anything on it.
type results struct {
	io.Writer
	begun bool
}

func (r *results) Write(b []byte) (int, error) {
	r.begun = r.begun || len(b) > 0
	return r.Writer.Write(b)
}

// fileOf is the file behind a stream, if there is one.
func fileOf(stream any) (*os.File, bool) {
	if r, ok := stream.(*results); ok {
		stream = r.Writer
	}
	f, ok := stream.(*os.File)
	return f, ok
}

// fail answers a program that asked for a document with one that says what went wrong, unless the command has
// written its own.
func (r *results) fail(cmd *cobra.Command, args []string, err error) {
	f := askedFor(cmd, args)
	if r.begun || !f.isData() {
		return
	}
	name := "status" // no command is that
	if words := strings.Fields(cmd.CommandPath()); len(words) > 1 {
		name = words[1]
	}
	switch {
	case !cmd.HasParent():
	case cmd.Flags().ShorthandLookup("o") == nil && !cmd.DisableFlagParsing:
		return // it has no documents
	}
	text := err.Error()
	if text == "" {
		text = fmt.Sprintf("exit status %d", exitCode(err))
	}
	writeData(r, f, failure{Schema: schemaOf(name), Error: text, Exit: exitCode(err)})
}

// askedFor is the format of the option -o, which the command may not have come to: then it is looked for in
// the words.
func askedFor(cmd *cobra.Command, args []string) format {
	word, long := "", "output"
	o := cmd.Flags().ShorthandLookup("o")
	if o != nil {
		long = o.Name // some commands have a file for their output
	}
	if o != nil && o.Changed {
		word = o.Value.String()
	} else {
		word = outputWord(args, long)
	}
	switch word {
	case "json":
		return formatJSON
	case "yaml":
		return formatYAML
	}
	return formatText
}

// outputWord looks in the words for the option -o, which has a long name, too.
func outputWord(args []string, long string) (word string) {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	for i, a := range args {
		for _, option := range []string{"--" + long, "-o"} {
			switch rest, found := strings.CutPrefix(a, option); {
			case !found:
			case rest == "" && i+1 < len(args):
				word = args[i+1]
			case strings.HasPrefix(rest, "="), option == "-o" && rest != "":
				word = strings.TrimPrefix(rest, "=")
			}
		}
	}
	return word
}
