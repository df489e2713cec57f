package lint_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"espalier/internal/xfrmstat"
	"espalier/lint"
	"espalier/xfrm"
)

// mutation is a block of testdata/mutations.txt, carried out.
type mutation struct {
	name    string
	scripts []lint.Source
	want    []string
}

var (
	header   = regexp.MustCompile(`^== (.*?)(?: of (transport|tunnel|ipv6))?$`)
	change   = regexp.MustCompile(`^([ab]):(\d+|\+): (.*)$`)
	keyWord  = regexp.MustCompile(`0x[0-9a-f]{40,}`)
	otherKey = regexp.MustCompile(`KEY\(([ab]):(\d+)\)`)
)

func correct(t *testing.T, pair string) []lint.Source {
	t.Helper()
	var sources []lint.Source
	for _, name := range []string{"a", "b"} {
		text, err := os.ReadFile(filepath.Join("testdata", "correct", pair, name+".xfrm"))
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, lint.Source{Name: name, Text: string(text), Mode: 0o600})
	}
	return sources
}

func mutations(t *testing.T) (all []*mutation) {
	t.Helper()
	text, err := os.ReadFile("testdata/mutations.txt")
	if err != nil {
		t.Fatal(err)
	}
	var m *mutation
	var original []lint.Source
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		if h := header.FindStringSubmatch(line); h != nil {
			if h[2] == "" {
				h[2] = "transport"
			}
			original = correct(t, h[2])
			m = &mutation{name: h[1], scripts: correct(t, h[2])}
			all = append(all, m)
			continue
		}
		switch words := strings.Fields(line); words[0] {
		case "want":
			m.want = append(m.want, words[1]+" "+words[2])
		case "mode":
			mode, _ := strconv.ParseUint(words[2], 8, 32)
			m.scripts[words[1][0]-'a'].Mode = fs.FileMode(mode)
		default:
			c := change.FindStringSubmatch(line)
			if c == nil {
				t.Fatalf("%s: what is %q?", m.name, line)
			}
			mutate(t, m, original, int(c[1][0]-'a'), c[2], c[3])
		}
	}
	return all
}

func lineOf(text, number string) string {
	n, _ := strconv.Atoi(number)
	return strings.Split(text, "\n")[n-1]
}

func mutate(t *testing.T, m *mutation, original []lint.Source, file int, number, what string) {
	t.Helper()
	what = otherKey.ReplaceAllStringFunc(what, func(s string) string {
		of := otherKey.FindStringSubmatch(s)
		return keyWord.FindString(lineOf(original[of[1][0]-'a'].Text, of[2]))
	})
	text := &m.scripts[file].Text
	if number == "+" {
		*text += what + "\n"
		return
	}
	lines := strings.Split(*text, "\n")
	n, _ := strconv.Atoi(number)
	if what == "-" {
		*text = strings.Join(slices.Delete(lines, n-1, n), "\n")
		return
	}
	key := keyWord.FindString(lines[n-1])
	before, after, found := strings.Cut(what, " => ")
	before = strings.ReplaceAll(before, "KEY", key)
	switch after {
	case "KEY~":
		after = key[:10] + map[bool]string{true: "0", false: "1"}[key[10] == '1'] + key[11:]
	case "KEY20", "KEY28", "KEY32":
		n, _ := strconv.Atoi(after[3:])
		after = key[:2+2*n]
	}
	changed := strings.Replace(lines[n-1], before, after, 1)
	if !found || changed == lines[n-1] {
		t.Fatalf("%s: nothing to change by %q", m.name, what)
	}
	lines[n-1] = changed
	*text = strings.Join(lines, "\n")
}

func scripts(t *testing.T, sources []lint.Source) *lint.Report {
	t.Helper()
	r, err := lint.Scripts(sources, lint.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func outline(findings []lint.Finding) (lines []string) {
	for _, f := range findings {
		lines = append(lines, fmt.Sprintf("%s %s", f.Position(), f.ID))
	}
	return lines
}

// Each mutation of a correct pair has its findings, at their lines, and no others. What Fix can decide on is gone
// from the corrected scripts, and nothing new is there.
func TestMutations(t *testing.T) {
	all := mutations(t)
	if len(all) < 40 {
		t.Fatalf("%d mutations", len(all))
	}
	found := map[lint.ID]bool{}
	for _, m := range all {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			r := scripts(t, m.scripts)
			got := outline(r.Findings)
			slices.Sort(got)
			slices.Sort(m.want)
			if !slices.Equal(got, m.want) {
				t.Errorf("found:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(m.want, "\n  "))
			}
			for _, f := range r.Findings {
				found[f.ID] = true
				whole(t, f)
			}
			fixed, err := r.Fix()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range fixed.After.Findings {
				if !slices.ContainsFunc(r.Findings, func(was lint.Finding) bool { return was.ID == f.ID }) {
					t.Errorf("the corrected scripts have %s %s", f.Position(), f.ID)
				}
			}
			if len(fixed.Left)+len(fixed.Mended) < len(r.Findings) || len(fixed.Left) != len(fixed.After.Findings) {
				t.Errorf("%d found, %d mended, %d left", len(r.Findings), len(fixed.Mended), len(fixed.Left))
			}
		})
	}
	for _, k := range lint.Kinds {
		if !found[k.ID] && k.ID != lint.Larval {
			t.Errorf("no mutation has %s", k.ID)
		}
	}
}

// whole checks that a finding says all that it has to.
func whole(t *testing.T, f lint.Finding) {
	t.Helper()
	kind, known := lint.KindOf(f.ID)
	if !known || f.Text == "" || f.About == "" || f.Fix == "" || f.Severity == "" || f.File == "" || f.Line < 1 {
		t.Errorf("not whole: %+v", f)
	}
	if f.Counter != "" && !slices.Contains(kind.Counters, f.Counter) {
		t.Errorf("%s counts in %s, of which its kind knows nothing", f.ID, f.Counter)
	}
}

// TestControls: what is right has no findings: the pairs that the mutations are made of, and the repository's examples.
func TestControls(t *testing.T) {
	for _, pair := range []string{"transport", "tunnel", "ipv6"} {
		if got := outline(scripts(t, correct(t, pair)).Findings); len(got) > 0 {
			t.Errorf("%s: %v", pair, got)
		}
	}
	var examples []lint.Source
	for _, name := range []string{"first-server", "second-server"} {
		text, err := os.ReadFile("../examples/" + name + ".xfrm")
		if err != nil {
			t.Fatal(err)
		}
		examples = append(examples, lint.Source{Name: name, Text: string(text), Mode: 0o644})
	}
	if got := outline(scripts(t, examples).Findings); len(got) > 0 {
		t.Errorf("examples: %v", got)
	}
}

// TestVendorsPair: the NIC vendor's two scripts have three templates wrong, all on the second server, beside what is
// unsafe; with the reqids exchanged, none.
func TestVendorsPair(t *testing.T) {
	var pair []lint.Source
	for _, name := range []string{"first-server.xfrm.sh", "second-server.xfrm.sh"} {
		text, err := os.ReadFile("../xfrm/testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		pair = append(pair, lint.Source{Name: name, Text: string(text), Mode: 0o644})
	}
	unsafe := []lint.ID{lint.NoReplayWindow, lint.NoESN, lint.KeyOnCommandLine, lint.KeyReadable, lint.WeakKey}
	templates := func(r *lint.Report) (about []string) {
		for _, f := range r.Findings {
			whole(t, f)
			if slices.Contains(unsafe, f.ID) == (f.Severity == lint.Error) {
				t.Errorf("%s is %s", f.ID, f.Severity)
			}
			if !slices.Contains(unsafe, f.ID) {
				about = append(about, fmt.Sprintf("%s %s %s", f.Position(), f.ID, f.Counter))
			}
		}
		return about
	}
	r := scripts(t, pair)
	want := []string{
		"second-server.xfrm.sh:3 reqid-mismatch XfrmOutNoStates",
		"second-server.xfrm.sh:4 reqid-mismatch XfrmInTmplMismatch",
		"second-server.xfrm.sh:5 reqid-mismatch XfrmInTmplMismatch",
	}
	if got := templates(r); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	fixed, err := r.Fix()
	if err != nil {
		t.Fatal(err)
	}
	if got := templates(fixed.After); len(got) > 0 {
		t.Errorf("corrected: %q", got)
	}
	for _, f := range fixed.After.Findings {
		if f.ID != lint.NoESN && f.ID != lint.KeyOnCommandLine {
			t.Errorf("corrected: %s %s", f.Position(), f.ID)
		}
	}
	// By hand: the two numbers exchanged in the templates of the second server.
	var right []string
	for line := range strings.Lines(pair[1].Text) {
		if strings.Contains(line, "policy") {
			line = strings.NewReplacer("0x28f39549", "0x622a73b4", "0x622a73b4", "0x28f39549").Replace(line)
		}
		right = append(right, line)
	}
	pair[1].Text = strings.Join(right, "")
	if got := templates(scripts(t, pair)); len(got) > 0 {
		t.Errorf("with the right reqids: %q", got)
	}
}

// TestFixed: the corrected scripts say what they have to, and no more has changed.
func TestFixed(t *testing.T) {
	for _, c := range []struct{ name, line string }{
		{"the fwd template has another reqid", "a:4: proto esp reqid 2 mode transport"},
		{"an out template without a reqid", "a:5: proto esp  mode transport reqid 1"},
		{"no window, no ESN", "a:1:  128 replay-window 64 offload dev p4p1 dir in"},
		{"no in policy", "a:5: xfrm policy add src 192.168.1.65/32 dst 192.168.1.64/32 dir in tmpl src 192.168.1.65 dst 192.168.1.64 proto esp reqid 2 mode transport"},
		{"no fwd policy", "a:4: xfrm policy add src 10.2.0.0/16 dst 10.1.0.0/16 dir fwd tmpl src 203.0.113.1 dst 198.51.100.1 proto esp reqid 7 mode tunnel"},
		{"level use", "a:5: reqid 1 mode transport"},
		{"another SPI at the receiver", "a:2: spi 0x00001011 "},
		{"a short ICV at both ends", "b:1: 128 offload dev p4p1 dir in"},
		{"the wrong direction of offload", "a:2: dir out sel"},
		{"a limit of 0", "a:2: 128 offload"},
		{"neighbour discovery is encrypted", "a:1: xfrm policy add src 2001:db8::1/128 dst 2001:db8::2/128 proto ipv6-icmp type 135 dir out"},
		{"an anti-replay window for sending", "a:2: mode transport flag esn dir out"},
	} {
		all := mutations(t)
		m := all[slices.IndexFunc(all, func(m *mutation) bool { return m.name == c.name })]
		fixed, err := scripts(t, m.scripts).Fix()
		if err != nil {
			t.Fatal(err)
		}
		at := change.FindStringSubmatch(c.line)
		if line := lineOf(fixed.Scripts[at[1][0]-'a'].Text, at[2]); !strings.Contains(line+"\n", at[3]) {
			t.Errorf("%s: line %s:%s is\n%s\nwithout %q", c.name, at[1], at[2], line, at[3])
		}
		if c.name != "no window, no ESN" && len(fixed.After.Findings) > 0 {
			t.Errorf("%s: %v", c.name, outline(fixed.After.Findings))
		}
	}
	// New keys are at both ends, and no others change.
	all := mutations(t)
	m := all[slices.IndexFunc(all, func(m *mutation) bool { return m.name == "one key both ways" })]
	fixed, err := scripts(t, m.scripts).Fix()
	if err != nil {
		t.Fatal(err)
	}
	keys := func(s []lint.Source) (k [4]string) {
		for i, at := range []string{"0:1", "0:2", "1:1", "1:2"} {
			k[i] = keyWord.FindString(lineOf(s[at[0]-'0'].Text, at[2:]))
		}
		return k
	}
	was, is := keys(m.scripts), keys(fixed.Scripts)
	if is[0] != is[3] || is[1] != is[2] || is[0] == is[1] || len(is[0]) != len(was[0]) || (is[0] == was[0]) == (is[1] == was[1]) {
		t.Error("the keys of the corrected pair are not one for each direction")
	}
}

// Wherever the words stand, corrected lines are lines that ip takes.
func TestFixedVariables(t *testing.T) {
	const text = `S=192.0.2.1 D=192.0.2.2 KEY=0x$(gen) OTHER=0x$(gen)
ID="proto esp reqid 16385 mode tunnel" ALG="aead rfc4106(gcm(aes)) $KEY 128 flag esn"
ip xfrm state add src $S dst $D spi 0x100 $ID $ALG dir out
ip xfrm state add src $D dst $S spi 0x200 $ID aead 'rfc4106(gcm(aes))' $OTHER 128 dir in
ip xfrm state add src $D dst $S proto esp spi 0x300 reqid 16385 mode tunnel sel src 10.2.0.0/16 aead "rfc4106(gcm(aes))" @k 128 dir in >/dev/null
ip xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out tmpl src $S proto esp dst $D reqid 7 mode tunnel
ip xfrm policy add src 10.2.0.0/16 dst 10.1.0.0/16 dir in tmpl src $D proto esp spi 0x200 dst $S mode tunnel reqid 7 || exit 1
`
	fixed, err := scripts(t, []lint.Source{{Name: "a", Text: text}}).Fix()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range fixed.After.Findings {
		if f.ID == lint.KeyOnCommandLine && strings.Contains(f.Text, "same key again") {
			t.Errorf("of a key that is made by each run: %s", f.Text)
		}
		if f.ID != lint.KeyOnCommandLine {
			got = append(got, f.Position()+" "+string(f.ID))
		}
	}
	if want := []string{"a:5 sa-without-policy"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v\n%s", got, want, fixed.Scripts[0].Text)
	}
}

// Nothing that is told has any of a key in it.
func TestNoKeyIsTold(t *testing.T) {
	for _, m := range mutations(t) {
		r := scripts(t, m.scripts)
		fixed, err := r.Fix()
		if err != nil {
			t.Fatal(err)
		}
		told := fmt.Sprintf("%+v %+v %+v", r.Findings, fixed.Left, fixed.Mended)
		for _, s := range slices.Concat(m.scripts, fixed.Scripts) {
			for _, key := range append(keyWord.FindAllString(s.Text, -1), "0xcorrect-horse-battery-staple-1234567") {
				for i := 2; i+16 <= len(key); i++ {
					if strings.Contains(told, key[i:i+16]) {
						t.Fatalf("%s: a key is told:\n%s", m.name, told)
					}
				}
			}
		}
	}
}

// A host of which not all is known is not told that something is missing.
func TestNotAllKnown(t *testing.T) {
	pair := correct(t, "transport")
	pair[0].Text = strings.Replace(pair[0].Text, "spi 0x1001", "spi $SPI", 1)
	got := outline(scripts(t, pair).Findings)
	if !slices.Equal(got, []string{"a:2 not-understood"}) {
		t.Errorf("%v", got)
	}
}

// What a kernel refuses depends on its release.
func TestKernel(t *testing.T) {
	pair := correct(t, "transport")
	pair[0].Text = strings.Replace(pair[0].Text, "flag esn aead", "flag esn replay-window 64 dir out aead", 1)
	for release, want := range map[xfrm.Release][]string{{}: {"a:2 kernel-refuses"}, {Major: 6, Minor: 12}: {"a:2 kernel-refuses"}, {Major: 6, Minor: 1}: {"b:2 kernel-refuses"}} {
		r, err := lint.Scripts(pair, lint.Options{Kernel: release})
		if err != nil {
			t.Fatal(err)
		}
		if got := outline(r.Findings); !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", release, got, want)
		}
	}
}

// The kinds are whole, each is there once, and their counters are the kernel's.
func TestKinds(t *testing.T) {
	seen := map[lint.ID]bool{}
	for _, k := range lint.Kinds {
		if seen[k.ID] || k.Title == "" || k.Happens == "" || k.Fix == "" || k.Severity == "" {
			t.Errorf("%+v", k)
		}
		seen[k.ID] = true
		for _, name := range k.Counters {
			if _, known := xfrmstat.Find(name); !known {
				t.Errorf("%s: there is no counter %s", k.ID, name)
			}
		}
	}
}
