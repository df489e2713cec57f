package config

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/refused.txt anew: look at what has changed")

// TestRefused: each file in testdata/refused.txt is refused with exactly the problems below it.
func TestRefused(t *testing.T) {
	const name = "testdata/refused.txt"
	all, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var anew strings.Builder
	cases := strings.Split(string(all), "=== ")[1:]
	if len(cases) < 60 {
		t.Fatalf("only %d files", len(cases))
	}
	for _, c := range cases {
		title, rest, _ := strings.Cut(c, "\n")
		text, want, _ := strings.Cut(rest, ">>>\n")
		t.Run(title, func(t *testing.T) {
			f, err := Parse("f", []byte(text))
			got := ""
			if err != nil {
				got = err.Error() + "\n"
			}
			if f != nil && err != nil || err == nil {
				t.Errorf("a file, and error %v", err)
			}
			if got != want && !*update {
				t.Errorf("%s\ngot:\n%swant:\n%s", text, got, want)
			}
			anew.WriteString("=== " + title + "\n" + text + ">>>\n" + got)
		})
	}
	for _, rule := range impossible {
		if !strings.Contains(string(all), rule.what) {
			t.Errorf("no file shows: %s", rule.what)
		}
	}
	if *update {
		if err := os.WriteFile(name, []byte(anew.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
