package main

import (
	"os"
	"strings"

	"espalier/dataplane"
	"espalier/internal/xfrmstat"
)

// counters writes what `espalier explain` knows, as one page.
func counters() error {
	var b strings.Builder
	b.WriteString(`# /proc/net/xfrm_stat explained

What the kernel's IPsec counters mean, why they usually rise, and what to look at. Written from the
table that ` + "`espalier explain`" + ` answers from; ` + "`espalier status`" + ` names those that moved.

| counter | what happened | likely | look at |
| --- | --- | --- | --- |
`)
	for _, c := range xfrmstat.Counters {
		name := "`" + c.Name + "`"
		if c.Since != "" {
			name += " (" + c.Since + ")"
		}
		b.WriteString("| " + name + " | " + cell(c.Meaning) + " | " + items(c.Causes) + " | " + items(c.Look) + " |\n")
	}
	b.WriteString(`
## Reasons of the userspace device

It has a reason of its own for each place that drops; Linux counts several of them together.

| reason | what happened | counted by Linux as |
| --- | --- | --- |
`)
	for _, r := range dataplane.DropReasons() {
		counter := ""
		if r.Counter != "" {
			counter = "`" + r.Counter + "`"
		}
		b.WriteString("| `" + r.Reason + "` | " + cell(r.Meaning) + " | " + counter + " |\n")
	}
	return os.WriteFile("docs/xfrm-stat.md", []byte(b.String()), 0o644)
}

func items(list []string) string { return cell(strings.Join(list, "; ")) }
