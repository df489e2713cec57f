package xfrm

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseScript(t *testing.T) {
	const script = "#!/bin/sh\n" +
		"\n" +
		"  # a comment\n" +
		"ip xfrm state add src 1.1.1.1 aead 'rfc4106(gcm(aes))' \"0x\"00 128 # why\n" +
		"sudo ip x s flush\r\n" +
		"/usr/sbin/ip xfrm policy list\n" +
		"xfrm state list \\\n   reqid 5\n" +
		"espalier xfrm policy\tcount\n" +
		"state add aead rfc4106(gcm(aes)) a\\ b 'it'\\''s' \"a\\\"b\\c\" ''\n" +
		"policy flush"
	want := []Line{
		{4, []string{"state", "add", "src", "1.1.1.1", "aead", "rfc4106(gcm(aes))", "0x00", "128"}},
		{5, []string{"s", "flush"}},
		{6, []string{"policy", "list"}},
		{7, []string{"state", "list", "reqid", "5"}},
		{9, []string{"policy", "count"}},
		{10, []string{"state", "add", "aead", "rfc4106(gcm(aes))", "a b", "it's", `a"b\c`, ""}},
		{11, []string{"policy", "flush"}},
	}
	got, err := ParseScript(strings.NewReader(script))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseScriptErrors(t *testing.T) {
	for script, want := range map[string]string{
		"\nip xfrm state add 'x":           "line 2: a quote is not closed",
		"ip xfrm state list\n\nip route":   "line 3: only the xfrm commands of ip",
		"reboot":                           "line 1: this is not a command of ip xfrm",
		"sudo reboot":                      "this is not a command",
		"xfrm":                             "this is not a command",
		"xfrm 0xdeadbeef":                  "this is not a command",
		"ip -s xfrm state":                 "take -s out",
		"ip":                               "only the xfrm commands",
		"ip xfrm state flush; reboot":      "is for a shell",
		"state flush > /dev/null":          "is for a shell",
		"state add src $A":                 "not expanded",
		"state add src \"$A\"":             "not expanded",
		"state add src `hostname`":         "not expanded",
		"state flush \\":                   "a backslash at the end",
		"state fl\x00ush":                  "not text",
		"state flush '\x00'":               "not text",
		"state \rflush\r\n":                "carriage return",
		"state flush \\\n\\\n\nfoo":        "line 4: this is not a command",
		"state flush 'a\nb'\n\"c\n\nd\" e": "line 3: this is not a command",
	} {
		if _, err := ParseScript(strings.NewReader(script)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", script, err, want)
		}
	}
}

// What ParseScript takes apart, quoting puts together again.
func FuzzParseScript(f *testing.F) {
	f.Add("ip xfrm state add aead 'a b' \"c\" d\\ e\n# x\npolicy list")
	f.Add("sudo ip xfrm state add src 1.1.1.1 \\\n dst 2.2.2.2 ''")
	f.Add("state 'it'\\''s'")
	f.Fuzz(func(t *testing.T, script string) {
		lines, err := ParseScript(strings.NewReader(script))
		if err != nil {
			return
		}
		for _, line := range lines {
			again, err := ParseScript(strings.NewReader(quoteWords(line.Words)))
			if err != nil || len(again) != 1 {
				t.Fatalf("%q: %v, %v", line.Words, again, err)
			}
			if !slices.Equal(line.Words, again[0].Words) {
				t.Fatalf("%q became %q", line.Words, again[0].Words)
			}
		}
	})
}
