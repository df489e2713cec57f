package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A trial asks, and takes nothing but yes for a yes.
func TestConfirmTrial(t *testing.T) {
	for answer, want := range map[string]error{
		"y\n": nil, "Yes\n": nil, " YES \n": nil, "\n": errDeclined, "n\n": errDeclined, "": errDeclined, "yellow\n": errDeclined,
	} {
		var out strings.Builder
		trial := doctorTrial{wanted: true}
		if err := trial.confirm(t.Context(), strings.NewReader(answer), &out, []string{"p4p1", "p4p2"}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", answer, err, want)
		}
		for _, said := range []string{"118 throwaway SAs to p4p1, and to p4p2:", "192.0.2.1", "modules", "[y/N]"} {
			if !strings.Contains(out.String(), said) {
				t.Errorf("it does not say %q:\n%s", said, out.String())
			}
		}
		for line := range strings.Lines(out.String()) {
			if len(line) > 100 {
				t.Errorf("a line of %d columns: %s", len(line), line)
			}
		}
	}

	var out strings.Builder
	trial := doctorTrial{wanted: true, yes: true}
	if err := trial.confirm(t.Context(), nil, &out, []string{"p4p1"}); err != nil || strings.Contains(out.String(), "[y/N]") || !strings.Contains(out.String(), "modules") {
		t.Errorf("--yes: %v\n%s", err, out.String())
	}

	// Ctrl-C while nobody answers.
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	trial = doctorTrial{wanted: true}
	if err := trial.confirm(ctx, r, io.Discard, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestDoctorTrialUsage(t *testing.T) {
	for _, tt := range []struct {
		args []string
		said string
	}{
		{[]string{"--yes"}, "--yes goes with --trial"},
		{[]string{"--trial"}, "say --yes as well"},
	} {
		var stdout, stderr strings.Builder
		code := Main(t.Context(), append([]string{"doctor"}, tt.args...), strings.NewReader("y\n"), &stdout, &stderr)
		if code != exitUsage || !strings.Contains(stderr.String(), tt.said) || stdout.String() != "" {
			t.Errorf("%q: exit %d, %s%s", tt.args, code, stdout.String(), stderr.String())
		}
	}
}

// The file of an archive is made before anything is done, is never one that was there, and is gone
// if it does not come to be one.
func TestDoctorBundleFile(t *testing.T) {
	path := t.TempDir() + "/support.tar.gz"
	run := func(args ...string) (code int, stderr string) {
		var out, errs strings.Builder
		code = Main(t.Context(), append([]string{"doctor", "--bundle", path}, args...), strings.NewReader(""), &out, &errs)
		return code, errs.String()
	}
	if code, stderr := run("no-such-device"); code != exitUsage || exists(path) {
		t.Errorf("exit %d, %s; the file is there: %v", code, stderr, exists(path))
	}
	code, stderr := run()
	info, err := os.Stat(path)
	if code == exitUsage || code == exitFailed || err != nil || info.Mode().Perm() != 0o600 || !strings.Contains(stderr, path) {
		t.Fatalf("exit %d, %s; %v", code, stderr, err)
	}
	before, _ := os.ReadFile(path)
	if code, stderr := run(); code != exitFailed || !strings.Contains(stderr, unix.EEXIST.Error()) {
		t.Errorf("again: exit %d, %s", code, stderr)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("an archive was overwritten")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
