package main

import (
	"os"
	"strings"

	"espalier/test/differential"
)

// differences writes what differs from ip on purpose, as the tests have it.
func differences() error {
	var b strings.Builder
	b.WriteString(`# Compatibility with ip xfrm

` + "`espalier xfrm`" + ` takes the grammar of ` + "`ip xfrm`" + `: the same words, abbreviations, defaults and exit codes; it
sends the same bytes and prints the same text. Tests compare thousands of generated commands and
random messages with iproute2 6.1 and 6.15 (` + "`go test ./test/differential`" + `). This is all that differs,
on purpose. The table is written from the one those tests go by.

| what | why |
| --- | --- |
`)
	for _, d := range differential.Differences {
		b.WriteString("| " + cell(d.What) + " | " + cell(d.Why) + " |\n")
	}
	return os.WriteFile("docs/compatibility-with-ip.md", []byte(b.String()), 0o644)
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
