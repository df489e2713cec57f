package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Whoever asks for a document gets one, also of a command line that is wrong.
func TestFailureIsADocument(t *testing.T) {
	schemas := Schemas()
	var try func(cmd *cobra.Command)
	tried := 0
	try = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			try(c)
		}
		o := cmd.Flags().ShorthandLookup("o")
		if o == nil {
			return
		}
		tried++
		words := strings.Fields(cmd.CommandPath())[1:]
		for _, more := range [][]string{
			{"-o", "json", "--no-such-option"}, {"--no-such-option", "-o", "json"}, {"--" + o.Name + "=json", "--no-such-option"}, {"--no-such-option", "-ojson"},
		} {
			args := append(append([]string{}, words...), more...)
			var stdout, stderr bytes.Buffer
			code := Main(context.Background(), args, strings.NewReader(""), &stdout, &stderr)
			var f failure
			if err := json.Unmarshal(stdout.Bytes(), &f); err != nil || f.OK || f.Exit != 2 || code != 2 || schemas[f.Schema] == nil || !strings.Contains(f.Error, "no-such-option") {
				t.Errorf("%v: exit %d, %v\n%s%s", args, code, err, stdout.Bytes(), stderr.Bytes())
			}
		}
	}
	try(Root())
	if tried < 12 {
		t.Errorf("%d commands", tried)
	}
}

func TestOutputWord(t *testing.T) {
	for words, want := range map[string]string{
		"": "", "-o": "", "--output": "", "-o json": "json", "-ojson": "json", "-o=json": "json", "--output json": "json", "--output=yaml": "yaml",
		"--outputs=json": "", "-o json -o yaml": "yaml", "-- -o json": "", "x -o yaml -- -o json": "yaml", "--only json": "",
	} {
		if got := outputWord(strings.Fields(words), "output"); got != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
}

// Where --output is a file, its name is no format.
func TestFailureBesideAnOutputFile(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"import", "--output", "json", "no-such-file"}, ""},
		{[]string{"import", "--output", "tunnels.yaml", "-o", "json", "no-such-file"}, `{"schema":"espalier/import/v1","ok":false,`},
		{[]string{"import", "--format", "json", "--output", "tunnels.yaml", "--no-such-option"}, `{"schema":"espalier/import/v1","ok":false,`},
	} {
		var stdout, stderr bytes.Buffer
		code := Main(context.Background(), c.args, strings.NewReader(""), &stdout, &stderr)
		if got := stdout.String(); code == 0 || !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%v: exit %d\n%s", c.args, code, got)
		}
	}
}

// What is on standard output already stays alone, and so do people.
func TestFailureOfPeople(t *testing.T) {
	for _, args := range [][]string{{"status", "--no-such-option"}, {"dataplane", "-o", "json"}, {"status", "--no-such-option", "-o", "wide"}} {
		var stdout, stderr bytes.Buffer
		if code := Main(context.Background(), args, strings.NewReader(""), &stdout, &stderr); code != 2 || stdout.Len() > 0 || stderr.Len() == 0 {
			t.Errorf("%v: exit %d\n%s", args, code, stdout.Bytes())
		}
	}
	r := &results{Writer: &bytes.Buffer{}}
	cmd := newStatusCommand()
	(&cobra.Command{Use: "espalier"}).AddCommand(cmd)
	writeJSON(r, 1)
	r.fail(cmd, []string{"-o", "json"}, usageError(context.Canceled))
	if text := r.Writer.(*bytes.Buffer).String(); text != "1\n" {
		t.Errorf("%q", text)
	}
}
