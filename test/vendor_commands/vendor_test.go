package vendorcmd

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"espalier/internal/wire"
	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

const (
	vendor = "../testdata/vendor/"
	size   = 8 << 20

	firstToSecond = "0x28f39549"
	secondToFirst = "0x622a73b4"
)

// The second server's templates name the request ids the wrong way round, so its policies ask
// for SAs that carry the other direction. Nothing passes, and the counters say why: what it
// sends finds no SA, what it receives came by an SA its policy does not allow.
func TestSecondServerAsWritten(t *testing.T) {
	lab.Tools(t, "ping")
	l := startLab(t)
	batch(t, l.A, vendor+"first-server.xfrm.sh")
	batch(t, l.B, vendor+"second-server.xfrm.sh")
	watcher := l.Watch(l.A, nil)

	if l.A.Ping(lab.B4, 3) || l.B.Ping(lab.A4, 3) {
		t.Error("ping passed")
	}
	for reason, counter := range map[string]string{
		"out-no-sa":          "XfrmOutNoStates",
		"in-policy-mismatch": "XfrmInTmplMismatch",
	} {
		if n := l.B.AwaitDrops(func(d map[string]uint64) bool { return d[reason] >= 3 })[reason]; n != 3 {
			t.Errorf("host B: %d %s, want 3", n, reason)
		}
		if out := l.B.Xfrm("drops").Stdout; !regexp.MustCompile(`(?m)^3 +` + reason + ` +` + counter + ` `).MatchString(out) {
			t.Errorf("host B: drops do not name %s %s:\n%s", reason, counter, out)
		}
	}
	if drops := l.A.Drops(); len(drops) != 0 {
		t.Errorf("host A dropped %v", drops)
	}
	counts, err := watcher.Stop()
	if err != nil || counts.ESP != 3 || counts.Cleartext != 0 {
		t.Errorf("on the wire: %+v, %v; want A's 3 ESP packets only", counts, err)
	}
}

// passesAsESP sends ping and TCP both ways while w watches. All of it arrives, nothing is dropped
// and the wire carries ESP only.
func passesAsESP(t *testing.T, l *lab.Lab, w *wire.Watcher) {
	t.Helper()
	if !l.A.Ping(lab.B4, 3) || !l.B.Ping(lab.A4, 3) {
		t.Error("ping failed")
	}
	l.MustExchange(t, lab.A4, lab.B4, size)
	counts, err := w.Stop()
	if err != nil || counts.Cleartext != 0 || counts.Dropped != 0 || counts.ESP < 4*size/1500 {
		t.Errorf("on the wire: %+v, %v; want ESP only", counts, err)
	}
	for _, h := range l.Hosts() {
		if drops := h.Drops(); len(drops) != 0 {
			t.Errorf("host %s dropped %v", h.Name, drops)
		}
	}
}

func TestTemplatesPutRight(t *testing.T) {
	lab.Tools(t, "ping")
	l := startLab(t)
	batch(t, l.A, vendor+"first-server.xfrm.sh")
	l.B.Batch(corrected(t, read(t, vendor+"second-server.xfrm.sh")))
	passesAsESP(t, l, l.Watch(l.A, nil))
	for h, out := range map[*lab.Host]string{l.A: firstToSecond, l.B: secondToFirst} {
		checkStateList(t, h, out)
	}
}

// checkStateList has the SAs listed in every format: both, offloaded, without a key.
func checkStateList(t *testing.T, h *lab.Host, out string) {
	t.Helper()
	listed := stdout(t, h, "state", "list")
	for _, s := range []struct{ src, dst, spi string }{
		{"192.168.1.64", "192.168.1.65", firstToSecond},
		{"192.168.1.65", "192.168.1.64", secondToFirst},
	} {
		dir := "in"
		if s.spi == out {
			dir = "out"
		}
		want := regexp.MustCompile(`src ` + s.src + ` dst ` + s.dst + `\n` +
			`\tproto esp spi ` + s.spi + ` reqid \d+ mode transport\n` +
			`(\t.*\n)*\tcrypto offload parameters: dev enp4s0 dir ` + dir + ` mode crypto\n`)
		if !want.MatchString(listed) {
			t.Errorf("host %s: state list does not show %s offloaded %s:\n%s", h.Name, s.spi, dir, listed)
		}
	}
	if n := strings.Count(listed, "\nsrc ") + 1; n != 2 {
		t.Errorf("host %s: %d SAs listed, want 2", h.Name, n)
	}
	for _, args := range [][]string{{"state", "list"}, {"-s", "state", "list"}, {"-o", "json", "state", "list"}, {"--show-keys", "state", "list"}} {
		text := stdout(t, h, args...)
		for _, k := range keys(t, read(t, vendor+"first-server.xfrm.sh")) {
			if strings.Contains(text, k[2:18]) {
				t.Errorf("host %s: %v shows a key", h.Name, args)
			}
		}
	}
}

// The manual's other page has SAs only, and the device p4p1.
func TestTransmitReceive(t *testing.T) {
	l := lab.New(t, "p4p1")
	l.A.StartDevice()
	batch(t, l.A, vendor+"transmit-receive.xfrm.sh")
	listed := stdout(t, l.A, "state", "list")
	for spi, dir := range map[string]string{"0x46dc6204": "out", "0xaea0846c": "in"} {
		at := strings.Index(listed, "proto esp spi "+spi+" ")
		if at < 0 || !strings.Contains(listed[at:], "crypto offload parameters: dev p4p1 dir "+dir+" mode crypto\n") {
			t.Errorf("state list does not show %s offloaded %s:\n%s", spi, dir, listed)
		}
	}
	for _, k := range keys(t, read(t, vendor+"transmit-receive.xfrm.sh")) {
		if strings.Contains(listed, k[2:18]) {
			t.Error("state list shows a key")
		}
	}
}

func startLab(t *testing.T) *lab.Lab {
	l := lab.New(t, "enp4s0")
	for _, h := range l.Hosts() {
		h.StartDevice()
	}
	return l
}

func batch(t *testing.T, h *lab.Host, file string) {
	t.Helper()
	if r := h.Xfrm("-batch", file); r.Code != 0 {
		t.Fatalf("host %s: %s: exit %d\n%s%s", h.Name, filepath.Base(file), r.Code, r.Stdout, r.Stderr)
	}
}

func stdout(t *testing.T, h *lab.Host, args ...string) string {
	t.Helper()
	r := h.Xfrm(args...)
	if r.Code != 0 {
		t.Fatalf("host %s: %v: exit %d: %s", h.Name, args, r.Code, r.Stderr)
	}
	return r.Stdout
}

// corrected exchanges the request ids in the templates, and nothing else.
func corrected(t *testing.T, script string) string {
	t.Helper()
	exchange := strings.NewReplacer("reqid "+firstToSecond, "reqid "+secondToFirst, "reqid "+secondToFirst, "reqid "+firstToSecond)
	var lines []string
	changed := 0
	for line := range strings.Lines(script) {
		if before, tmpl, ok := strings.Cut(line, " tmpl "); ok {
			line = before + " tmpl " + exchange.Replace(tmpl)
			changed++
		}
		lines = append(lines, line)
	}
	if changed != 3 {
		t.Fatalf("%d templates found, want 3", changed)
	}
	return strings.Join(lines, "")
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// keys of a script, in hexadecimal.
func keys(t *testing.T, script string) []string {
	t.Helper()
	found := regexp.MustCompile(`0x[0-9a-f]{72}`).FindAllString(script, -1)
	if len(found) != 2 {
		t.Fatalf("%d keys in the script, want 2", len(found))
	}
	return found
}
