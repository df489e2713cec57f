package differential

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"espalier/test/lab"
)

var (
	count = flag.Int("commands", 5000, "how many commands are compared: four fifths with the newest ip, one with the installed")
	seed  = flag.Uint64("seed", 20260101, "of the generator")
)

// marker stands between the commands of a batch, so that what was sent can be told apart.
const (
	marker    = "state get proto esp spi 0x7e577e57"
	markerSPI = "\x7e\x57\x7e\x57"
)

func TestCommandsNew(t *testing.T) {
	compareCommands(t, newIP(t), true, *count*4/5)
}

func TestCommandsInstalled(t *testing.T) {
	ip, err := exec.LookPath("ip")
	if err != nil {
		lab.Missing(t, "iproute2")
	}
	compareCommands(t, ip, false, *count/5)
}

// compareCommands lets both programs loose on the same commands.
func compareCommands(t *testing.T, ip string, isNew bool, n int) {
	lab.Root(t)
	lab.Tools(t, "strace", "ip")
	lab.Binary(t)
	g := &generator{rand.New(rand.NewPCG(*seed, uint64(n)))}
	var all []*comparison
	t.Run("parts", func(t *testing.T) {
		for i, options := range [][]string{nil, nil, {"-4"}, {"-6"}} {
			size := n / 10
			if options == nil {
				size = n * 4 / 10
			}
			var cases []*comparison
			for range size {
				cases = append(cases, &comparison{options: options, words: g.command(), newIP: isNew})
			}
			all = append(all, cases...)
			t.Run(fmt.Sprint(i), func(t *testing.T) { // each in namespaces of its own
				t.Parallel()
				runIP(t, ip, cases)
				runOurs(t, cases)
			})
		}
	})
	if t.Failed() {
		return
	}
	used := map[string]int{}
	codes := map[outcome]int{}
	sent := 0
	for _, c := range all {
		codes[c.ip]++
		sent += len(c.ipSent)
		judge(t, c, used)
	}
	t.Logf("%d commands, exit codes of ip %v, %d messages, explained differences %v", n, codes, sent, used)
	for _, code := range []outcome{exitOK, exitSemantic, exitKernel, exitSyntax} {
		if codes[code] < n/50 {
			t.Errorf("only %d of %d commands end with %d: the generator is one-sided", codes[code], n, code)
		}
	}
	if !isNew || n < 4000 {
		return
	}
	for i := range Differences {
		if d := &Differences[i]; d.explains != nil && !d.old && used[d.What] == 0 {
			t.Errorf("nothing shows this difference: %s", d.What)
		}
	}
}

// judge compares outcomes and messages.
func judge(t *testing.T, c *comparison, used map[string]int) {
	c.forgetLook()
	same := c.ip == c.ours && slices.EqualFunc(c.ipSent, c.oursSent, message.equal)
	if same {
		return
	}
	for i := range Differences {
		if d := &Differences[i]; d.explains != nil && d.explains(c) {
			used[d.What]++
			return
		}
	}
	if c.ip == c.ours && len(c.ipSent) == len(c.oursSent) {
		t.Errorf("ip %s xfrm %s\n ip: exit %d, %v\nours: exit %d, %v", strings.Join(c.options, " "), quote(c.words), c.ip, c.ipSent, c.ours, c.oursSent)
		return
	}
	t.Errorf("ip %s xfrm %s\n ip: exit %d, %d messages\nours: exit %d, %d messages %s", strings.Join(c.options, " "), quote(c.words),
		c.ip, len(c.ipSent), c.ours, len(c.oursSent), c.ourWords)
}

// forgetLook takes away that an update looks at the SA before it changes it: see Differences.
func (c *comparison) forgetLook() {
	const getSA = 0x12
	if strings.HasPrefix(c.verb(), "up") && len(c.oursSent) > 0 && c.oursSent[0].typ == getSA {
		c.oursSent = c.oursSent[1:]
	}
}

// runIP runs one process for each command: ip ends with the first that fails.
func runIP(t *testing.T, ip string, cases []*comparison) {
	var script strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&script, "%s xfrm %s >/dev/null 2>&1 </dev/null\n", quote(append([]string{ip}, c.options...)), quote(c.words))
	}
	processes := trace(t, script.String())
	if len(processes) != len(cases)+3 { // sh, and two to set up
		t.Fatalf("%d processes for %d commands", len(processes), len(cases))
	}
	for i, c := range cases {
		p := processes[i+3]
		c.ip = outcome(p.exit)
		var err error
		if c.ipSent, err = p.messages(); err != nil && !strings.HasPrefix(c.verb(), "del") {
			t.Fatalf("ip xfrm %s: %v", quote(c.words), err)
		}
	}
}

// runOurs runs two batches: the first tells what is not in the grammar, the second sends the
// rest.
func runOurs(t *testing.T, cases []*comparison) {
	options := append(slices.Clone(cases[0].options), "--sad", "kernel", "--ip-compat", "-o", "json", "-force")
	file := filepath.Join(t.TempDir(), "batch")
	binary := lab.Binary(t)
	batch := func(line func(i int) string) {
		var script strings.Builder
		for i := range cases {
			script.WriteString(line(i) + "\n")
		}
		if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const pending = -1
	for _, c := range cases {
		if c.ours = pending; !isCommand(c.words) {
			c.ours, c.ourWords = exitSyntax, "(not a command)"
		}
	}
	line := func(i int) string {
		if cases[i].ours != pending {
			return ""
		}
		return quote(cases[i].words)
	}
	batch(line)
	out := file + ".out"
	trace(t, fmt.Sprintf("%s xfrm %s --dry-run -batch %s >%s 2>/dev/null\n", quote([]string{binary}), quote(options), quote([]string{file}), quote([]string{out})))
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results(t, text) {
		if c := cases[r.Line-1]; !r.OK && !r.DryRun {
			c.ours, c.ourWords = outcome(r.Exit), r.Error
		}
	}
	runSecond(t, cases, binary, options, file, line)
}

// runSecond sends what is in the grammar, a marker before each.
func runSecond(t *testing.T, cases []*comparison, binary string, options []string, file string, line func(int) string) {
	var script strings.Builder
	number := map[int]*comparison{}
	var order []*comparison
	n := 0
	for i, c := range cases {
		if l := line(i); l != "" {
			script.WriteString(marker + "\n" + l + "\n")
			n += 2
			number[n] = c
			order = append(order, c)
			c.ours = exitOK
		}
	}
	if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out := file + ".out"
	processes := trace(t, fmt.Sprintf("%s xfrm %s -batch %s >%s 2>/dev/null\n", quote([]string{binary}), quote(options), quote([]string{file}), quote([]string{out})))
	if len(processes) != 4 {
		t.Fatalf("%d processes", len(processes))
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results(t, text) {
		if c := number[r.Line]; c != nil && !r.OK {
			c.ours, c.ourWords = outcome(r.Exit), r.Error
		}
	}
	at := -1
	for _, b := range processes[3].sent {
		if bytes.Contains(b, []byte(markerSPI)) {
			at++
			continue
		}
		m, err := parseMessages(b)
		if err != nil {
			t.Fatal(err)
		}
		if at >= 0 {
			order[at].oursSent = append(order[at].oursSent, m...)
		}
	}
	if at != len(order)-1 {
		t.Fatalf("%d markers for %d commands", at+1, len(order))
	}
}

// isCommand reports whether -batch takes the line for a command: it does not send usage.
func isCommand(words []string) bool {
	for _, object := range []string{"state", "policy", "monitor"} {
		if words[0] != "" && strings.HasPrefix(object, words[0]) {
			return true
		}
	}
	return false
}

// result is what `-o json` says of one line.
type result struct {
	OK     bool   `json:"ok"`
	Line   int    `json:"line"`
	DryRun bool   `json:"dry_run"`
	Exit   int    `json:"exit"`
	Error  string `json:"error"`
}

func results(t *testing.T, text []byte) []result {
	t.Helper()
	var all []result
	d := json.NewDecoder(bytes.NewReader(text))
	for d.More() {
		var r result
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}
