package cli

import (
	"regexp"
	"strings"
	"testing"

	"espalier/test/lab"
)

var listedCommand = regexp.MustCompile(`(?m)^  ([a-z]+) +[A-Z]`)

// TestHelp: the help of each command that espalier lists succeeds and has examples of it.
func TestHelp(t *testing.T) {
	t.Parallel()
	l := lab.New(t, "")
	top := l.A.Espalier("--help").Stdout
	_, list, _ := strings.Cut(top, "Available Commands:")
	var commands []string
	for _, m := range listedCommand.FindAllStringSubmatch(list, -1) {
		commands = append(commands, m[1])
	}
	if len(commands) < 4 || !strings.Contains(top, "Examples:\n  espalier ") {
		t.Fatalf("espalier --help:\n%s", top)
	}
	for _, command := range commands {
		if command == "help" || command == "completion" { // cobra's own
			continue
		}
		for _, args := range [][]string{{command, "--help"}, {command, "-h"}, {"help", command}} {
			r := l.A.Espalier(args...)
			_, examples, found := strings.Cut(r.Stdout, "\nExamples:\n")
			if r.Code != 0 || r.Stderr != "" || !found || !strings.Contains(examples, "  espalier "+command) {
				t.Errorf("espalier %s: exit %d, no examples:\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
			}
		}
	}
}
