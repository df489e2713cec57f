package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"espalier/internal/cli"
)

// manPages carry no date: they change when the commands do.
func manPages() error {
	dir, err := empty("docs/man")
	if err != nil {
		return err
	}
	root := cli.Root()
	root.DisableAutoGenTag = true
	inMarkdown(root)
	undated := time.Unix(0, 0).UTC()
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "espalier", Manual: "espalier", Date: &undated}, dir); err != nil {
		return err
	}
	return eachFile(dir, func(page []byte) []byte { return []byte(strings.Replace(string(page), `"Jan 1970"`, `""`, 1)) })
}

// inMarkdown has the description of a command and of those below it mean in Markdown, which pages are made
// from, what they mean on a terminal.
func inMarkdown(cmd *cobra.Command) {
	cmd.Long = verbatim(cmd.Long)
	for _, c := range cmd.Commands() {
		inMarkdown(c)
	}
}

// verbatim fences indented lines: columns in them stay columns.
func verbatim(text string) string {
	var out []string
	fenced := false
	for _, line := range append(strings.Split(text, "\n"), "") {
		switch indented := strings.HasPrefix(line, "  "); {
		case indented && !fenced:
			out = append(out, "", "```")
		case !indented && fenced:
			out = append(out, "```", "")
		}
		fenced = strings.HasPrefix(line, "  ")
		if !fenced {
			line = strings.ReplaceAll(line, "<", `\<`)
		}
		out = append(out, line)
	}
	return strings.TrimRight(strings.Join(out, "\n"), "\n")
}
