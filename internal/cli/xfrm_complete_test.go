package cli

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"espalier/internal/netns"
)

// asEspalier makes the test's program espalier, for shells.
const asEspalier = "ESPALIER_TEST_IS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asEspalier) != "" {
		os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// complete asks as a shell does; the word to complete is the last.
func complete(t *testing.T, args ...string) (words []string, text string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := Main(t.Context(), append([]string{"__complete", "xfrm"}, args...), strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("%q: exit %d: %s", args, code, errs.String())
	}
	for line := range strings.Lines(out.String()) {
		word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		words = append(words, word)
	}
	return words[:len(words)-1], out.String() // the last is the directive
}

func TestXfrmComplete(t *testing.T) {
	t.Setenv("ESPALIER_SAD", "unix:/nobody/listens")
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("keys/more", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("keys/out.key", []byte(testKey), 0o600); err != nil {
		t.Fatal(err)
	}
	const added = "state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 1 "
	for _, tt := range []struct{ args, word, want string }{
		{"", "", "state policy monitor drops"},
		{"", "s", "state"},
		{"-s", "pol", "policy"},
		{"--sad kernel state", "del", "delete deleteall"},
		{"state add src 10.0.0.1 dst 10.0.0.2 proto", "e", "esp"},
		{"state add src 10.0.0.1", "p", "proto"},
		{added + "aead", "rfc41", "rfc4106(gcm(aes))"},
		{added + "aead rfc4106(gcm(aes))", "", "--generate-key @"},
		{added + "aead rfc4106(gcm(aes))", "@ke", "@keys/"},
		{added + "aead rfc4106(gcm(aes))", "@keys/", "@keys/more/ @keys/out.key"},
		{added + "aead rfc4106(gcm(aes))", "0x12", ""},
		{added + "aead rfc4106(gcm(aes)) @keys/out.key", "1", "128"},
		{added + "offload dev", "l", "lo"},
		{added + "offload dev nosuch dir", "", "in out"},
		{added + "offload dev lo dir in", "sel", "sel"},
		{"state delete proto esp spi", "", ""}, // the SAD does not answer
		{"", "--req", "--require-offload"},
		{"", "-ba", "-batch"},
		{"--sad", "ker", "kernel"},
		{"-o", "j", "json"},
		{"-o json state", "co", "count"},
		{"-f", "", "inet inet6"},
		{"nosuchthing", "", ""},
	} {
		if got, _ := complete(t, append(strings.Fields(tt.args), tt.word)...); strings.Join(got, " ") != tt.want {
			t.Errorf("%s [%s]: got %q, want %s", tt.args, tt.word, got, tt.want)
		}
	}
}

// What stands for a value comes from the SAD and the SPD, without their keys.
func TestXfrmCompleteKernel(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	t.Setenv("ESPALIER_SAD", "kernel")
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		for _, words := range []string{
			"state allocspi src 10.0.0.1 dst 10.0.0.2 proto esp reqid 77 min 0x2a max 0x2a",
			"state allocspi src 10.0.0.1 dst 10.0.0.3 proto esp reqid 78 min 0x2b max 0x2b",
			"policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out index 0x109",
		} {
			var out, errs bytes.Buffer
			if code := Main(t.Context(), append([]string{"xfrm"}, strings.Fields(words)...), strings.NewReader(""), &out, &errs); code != 0 {
				t.Fatalf("%s: %s", words, errs.String())
			}
		}
		for _, tt := range []struct{ args, want string }{
			{"state get dst 10.0.0.2 proto esp spi", "0x0000002a"},
			{"state list reqid", "77 78"},
			{"policy delete dir out index", "265"},
			{"policy delete src", "10.0.0.1 10.0.0.2 10.0.0.3 10.8.0.0/16 10.9.0.0/16"},
		} {
			got, text := complete(t, append(strings.Fields(tt.args), "")...)
			slices.Sort(got)
			if strings.Join(got, " ") != tt.want {
				t.Errorf("%s: got %s, want %s", tt.args, text, tt.want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// bashWords stands for the function of package bash-completion, as far as these words need it.
const bashWords = `_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]}; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; }
compopt() { :; }
`

func TestXfrmCompleteBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("needs bash")
		}
		t.Skip("needs bash")
	}
	dir := t.TempDir()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var out, errs bytes.Buffer
		if code := Main(t.Context(), []string{"completion", shell}, strings.NewReader(""), &out, &errs); code != 0 || !strings.Contains(out.String(), "__complete") {
			t.Fatalf("completion %s: exit %d: %s", shell, code, errs.String())
		}
		if err := os.WriteFile(filepath.Join(dir, shell), out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ line, want string }{
		{"espalier xfrm sta", "state"},
		{"espalier xfrm state add src 10.0.0.1 dst 10.0.0.2 pro", "proto"},
		{"espalier xfrm state add proto esp aead 'rfc4106(gcm(aes))' @k 128 offload dev lo dir o", "out"},
		{"espalier xfrm state add proto esp aead 'rfc4106(gcm(aes))' @k 128 mode tu", "tunnel"},
	} {
		script := bashWords + ". " + filepath.Join(dir, "bash") + `
espalier() { ` + asEspalier + `=1 ` + program + ` "$@"; }
COMP_WORDS=(` + quoteEach(tt.line) + `); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); COMP_TYPE=9; COMP_LINE="x"; COMP_POINT=1
__start_espalier
printf '%s\n' "${COMPREPLY[@]}"`
		cmd := exec.CommandContext(t.Context(), bash, "--norc", "-c", script)
		cmd.Env = append(os.Environ(), "ESPALIER_SAD=unix:/nobody/listens")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
			t.Errorf("%s: bash completes %q, want %q: %v %s", tt.line, got, tt.want, err, errs.String())
		}
	}
}

// quoteEach quotes each word of a line whole, as bash has them in COMP_WORDS.
func quoteEach(line string) string {
	words := strings.Fields(line)
	for i, w := range words {
		words[i] = `"` + w + `"`
	}
	return strings.Join(words, " ")
}
