package script

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"espalier/xfrm"
)

const secret = "0x492e8ffe718a95a00c1893ea61afc64997f4732848ccfe6ea07db483175cb18de9ae411a"

const sa = "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1001 aead 'rfc4106(gcm(aes))' " + secret + " 128"

func read(t *testing.T, text string) *Script {
	t.Helper()
	s, err := Read("a.sh", text, new(Interfaces))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// outline is what is there: line, what it is about, and what was not understood.
func outline(s *Script) (lines []string) {
	for _, c := range s.Commands {
		switch {
		case c.Err != nil:
			lines = append(lines, fmt.Sprintf("%d: error: %v", c.Line, c.Err))
		case c.Parsed.State != nil:
			lines = append(lines, fmt.Sprintf("%d: %s", c.Line, c.Parsed.State.ID()))
		case c.Parsed.Policy != nil:
			lines = append(lines, fmt.Sprintf("%d: %s", c.Line, c.Parsed.Policy.ID()))
		default:
			lines = append(lines, fmt.Sprintf("%d: %s %s", c.Line, c.Parsed.Object, c.Parsed.Verb))
		}
	}
	for _, u := range s.Unread {
		lines = append(lines, fmt.Sprintf("%d? %s", u.Line, u.Reason))
	}
	return lines
}

const it = "0x00001001 10.0.0.1→10.0.0.2"

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"plain", "ip " + sa, []string{"1: " + it}},
		{"as in a batch", "# keys\n\n" + sa + "\n" + strings.TrimPrefix(sa, "xfrm "), []string{"3: " + it, "4: " + it}},
		{"sudo, a path, options", "sudo -n -u root /sbin/ip -4 " + sa + " 2>/dev/null >&2\n", []string{"1: " + it}},
		{"continued", "#!/bin/sh\nset -e\nip xfrm state \\\n  add src 10.0.0.1 dst 10.0.0.2 \\\n proto esp spi 0x1001 aead 'rfc4106(gcm(aes))' " + secret + " 128 # done\n", []string{"3: " + it}},
		{"carriage returns", "ip " + sa + "\r\nip " + sa + "\r\n", []string{"1: " + it, "2: " + it}},
		{"several on a line", "modprobe esp4 && ip " + sa + "; ip xfrm policy flush || exit 1", []string{"1: " + it, "1: policy flush"}},
		{"other commands", "echo ip xfrm state add; ethtool -K p4p1 esp-hw-offload on\nip link set p4p1 up\nip xfrm state list | grep spi\ncat <<EOF >/etc/x\nip xfrm state flush\nEOF\n", nil},
		{"variables", "KEY=" + secret + "\nexport DST=10.0.0.2 A=\"aead rfc4106(gcm(aes)) $KEY 128\"\nip xfrm state add src 10.0.0.1 dst ${DST} proto esp spi 0x1001 $A", []string{"3: " + it}},
		{"a program in a variable", "IP=/sbin/ip\n$IP xfrm state flush", []string{"2: state flush"}},
		{"a key that is made when it runs", "K=0x$(head -c 36 /dev/urandom | xxd -p -c 36)\nip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1001 aead 'rfc4106(gcm(aes))' $K 128", []string{"2: " + it}},
		{"such a key among others in a variable", "K=0x$(gen)\nA=\"aead rfc4106(gcm(aes)) $K\"\nA+=' 128'\nip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1001 $A", []string{"4: " + it}},
		{"a key in a file", "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 0x1001 aead 'rfc4106(gcm(aes))' @k 128", []string{"1: " + it}},
		{"an SPI that is made when it runs", "S=$(gen)\nip xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi $S", []string{"2? word 10 is not known: $S is set by a command substitution"}},
		{"a variable of nobody", "ip xfrm state add src $HERE", []string{"1? word 4 is not known: $HERE is not set in this script"}},
		{"an argument", "ip xfrm state add src $1", []string{"1? word 4 is not known: an argument of the script"}},
		{"a loop", "for i in 1 2; do\n ip xfrm policy flush\ndone\nip xfrm state flush", []string{"4: state flush", "2? it stands in a loop"}},
		{"an if", "if [ -f x ]; then ip xfrm policy flush; X=1; fi\nip xfrm state add src $X", []string{"1? it stands in an if", "2? word 4 is not known: $X is set where it stands in an if"}},
		{"an if about something else", "if [ $(id -u) -ne 0 ]; then echo no; exit 1; fi\nip xfrm state flush", []string{"2: state flush"}},
		{"a function", "up() {\n ip xfrm state flush\n}\nup\nfunction down { ip xfrm policy flush; }\nip xfrm policy flush", []string{"6: policy flush", "2? it stands in a function", "5? it stands in a function"}},
		{"a case", "case $1 in\n start|up) ip xfrm state flush ;;\n *) exit 1;;\nesac\nip xfrm policy flush", []string{"5: policy flush", "2? it stands in a case"}},
		{"a group and a subshell", "{ ip xfrm state flush; }\n( ip xfrm policy flush )", []string{"1: state flush", "2? it stands in a subshell"}},
		{"conditions", "[ -f x ] && ip xfrm state flush\nip xfrm state flush || ip xfrm policy flush", []string{"2: state flush", "1? it runs only if what stands before it succeeds", "2? it runs only if what stands before it fails"}},
		{"what stands behind the end", "ip xfrm state flush\nexit 0\nip xfrm policy flush", []string{"1: state flush"}},
		{"another host", "ssh root@b ip xfrm state flush\nssh b 'ip xfrm state flush'\neval \"ip xfrm state flush\"", []string{"1? what ssh makes of it is not followed", "2? what ssh makes of it is not followed", "3? what eval makes of it is not followed"}},
		{"another host, by a here-document", "ssh root@b /bin/bash <<EOF\nip xfrm state flush\nEOF\nip xfrm policy flush", []string{"4: policy flush", "1? what ssh makes of it is not followed"}},
		{"a network namespace that is not known", "ip -n $1 xfrm state flush\nip netns exec $1 ip xfrm state flush", []string{"1? the value of -n is not known: an argument of the script", "2? which network namespace is not known: an argument of the script"}},
		{"a batch within", "ip -batch - <<EOF\n" + sa + "\nxfrm policy flush\nEOF\nip xfrm state flush", []string{"2: " + it, "3: policy flush", "5: state flush"}},
		{"a batch elsewhere", "ip -batch /etc/x\ncat x | ip -b -", []string{"1? the commands are in another file: give that one, too", "2? the commands come from another program"}},
		{"espalier", "espalier xfrm --sad kernel --require-offload state flush\nespalier xfrm -batch - <<'E'\nip xfrm policy flush\nE\nespalier status", []string{"1: state flush", "3: policy flush"}},
		{"not in the grammar", "ip xfrm state add src 10.0.0.1 dst 10.0.0.2 porto esp", []string{`1: error: state add: proto is missing; expected esp, ah, comp, route2, hao or ipsec-any`}},
		{"a quote that is left open", "ip xfrm state add src '10.0.0.1", []string{"1? word 4 is not known: a quote is not closed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := outline(read(t, c.text)); !slices.Equal(got, c.want) {
				t.Errorf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
			}
		})
	}
}

// Words are found again in the text, so that they can be replaced.
func TestWords(t *testing.T) {
	text := "R=7\nA='mode transport'\nip xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out tmpl proto esp 'reqid' \"$R\" $A\n"
	s := read(t, text)
	words := s.Commands[0].Words
	for _, w := range words[:len(words)-3] {
		if got := strings.Trim(text[w.Start:w.End], "'"); got != w.Text || w.Shared {
			t.Errorf("%q stands for %q", got, w.Text)
		}
	}
	if r := words[len(words)-3]; r.Text != "7" || text[r.Start:r.End] != `"$R"` || r.Shared {
		t.Errorf("%+v", r)
	}
	if m := words[len(words)-1]; m.Text != "transport" || text[m.Start:m.End] != "$A" || !m.Shared {
		t.Errorf("%+v", m)
	}
}

// Variables of variables do not fill the memory.
func TestBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("A='0123456789'\n")
	for range 100 {
		b.WriteString("A=\"$A$A\"\n")
	}
	b.WriteString("B=" + strings.Repeat("x", 60_000) + "\nC=" + strings.Repeat("$B", 5000) + "\n")
	for range 2000 {
		b.WriteString("ip xfrm state add src $B " + strings.Repeat("\"$B\"", 10) + "\n")
	}
	s := read(t, b.String())
	size := 0
	for _, c := range s.Commands {
		for _, w := range c.Words {
			size += len(w.Text)
		}
	}
	if size > 2*maxSpent || len(s.Unread) == 0 {
		t.Errorf("%d bytes of words, %d lines not understood", size, len(s.Unread))
	}
}

func TestHosts(t *testing.T) {
	names := new(Interfaces)
	out := "ip " + sa + " dir out\n"
	in := strings.Replace(out, "dir out", "dir in", 1)
	bare := "ip " + sa + "\n"
	policy := "ip xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out tmpl src 10.0.0.1 dst 10.0.0.2 proto esp\n"
	for _, c := range []struct {
		name  string
		texts []string
		given []string
		want  string // name(addresses): states, policies
	}{
		{"two hosts", []string{out, in}, nil, "a0([10.0.0.1]): 1, 0; a1([10.0.0.2]): 1, 0"},
		{"two files of one", []string{out, policy}, nil, "a0([10.0.0.1]): 1, 1"},
		{"what says nothing belongs to the only one", []string{bare, policy}, nil, "a1([10.0.0.1]): 1, 1"},
		{"nothing is said at all", []string{bare, bare}, nil, "a0([]): 1, 0; a1([]): 1, 0"},
		{"given", []string{out, out}, []string{"x", "y"}, "x([10.0.0.1]): 1, 0; y([10.0.0.1]): 1, 0"},
		{"network namespaces", []string{strings.ReplaceAll(out, "ip ", "ip netns exec A ip ") + strings.ReplaceAll(in, "ip ", "ip -n B ")}, nil, "A([10.0.0.1]): 1, 0; B([10.0.0.2]): 1, 0"},
		{"flushed and deleted", []string{out + "ip xfrm state flush\n" + out + "ip xfrm state delete dst 10.0.0.2 proto esp spi 0x1001\n" + policy + "ip xfrm policy deleteall\n" + out}, nil, "a0([10.0.0.1]): 1, 0"},
		{"added twice", []string{out + out + policy + policy}, nil, "a0([10.0.0.1]): 1, 1, again 2"},
		{"updated", []string{out + strings.Replace(out, " add ", " update ", 1) + policy + strings.Replace(policy, " add ", " update ", 1)}, nil, "a0([10.0.0.1]): 1, 1"},
	} {
		var scripts []*Script
		for i, text := range c.texts {
			s, err := Read(fmt.Sprintf("dir/a%d.sh", i), text, names)
			if err != nil || len(s.Unread) > 0 {
				t.Fatal(err, s.Unread)
			}
			scripts = append(scripts, s)
		}
		if c.given == nil {
			c.given = make([]string, len(scripts))
		}
		var got []string
		for _, h := range Hosts(scripts, c.given) {
			line := fmt.Sprintf("%s(%v): %d, %d", h.Name, h.Addresses, len(h.States), len(h.Policies))
			if len(h.Refused) > 0 {
				line += fmt.Sprintf(", again %d", len(h.Refused))
			}
			got = append(got, line)
		}
		if text := strings.Join(got, "; "); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
	s := read(t, "ip xfrm policy setdefault in block\n")
	if h := Hosts([]*Script{s}, []string{""})[0]; h.Defaults == nil || h.Defaults.In != xfrm.DefaultBlock {
		t.Errorf("%+v", h.Defaults)
	}
}

// FuzzRead: whatever is read, places are in the text, and nothing that is told holds a key.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"ip " + sa, "KEY=" + secret + "\nfor i in $KEY; do ip xfrm state add $KEY; done", "ip -batch - <<E\nxfrm policy add\nE\n",
		"f() { case x in a) ip xfrm $(`)` ;; esac; }\n{ ( ip xfrm state", "ip xfrm 'state \"add", "A=\"$A $A\"\nA=\"$A $A\"\nip xfrm policy $A",
		"ip xfrm state add src \\\n${B:?x} ${C#y} $'z' $((1))", "ip netns exec A sudo env X=1 ip -6 -n B xfrm policy flush &>x <<<y", "ip xfrm state add aead " + secret[2:42],
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Read("x", text, new(Interfaces))
		if err != nil {
			return
		}
		lines := strings.Count(text, "\n") + 1
		told := ""
		for _, u := range s.Unread {
			if u.Line < 1 || u.Line > lines || u.Reason == "" {
				t.Errorf("%+v of %d lines", u, lines)
			}
			told += u.Reason + "\n"
		}
		for _, c := range s.Commands {
			if c.Line < 1 || c.Line > lines || c.Start < 0 || c.Start > c.End || c.End > len(text) || (c.Parsed == nil) == (c.Err == nil) {
				t.Errorf("%+v", c)
			}
			for _, w := range c.Words {
				if w.Start < 0 || w.Start > w.End || w.End > len(text) {
					t.Errorf("%+v", w)
				}
			}
			if c.Err != nil {
				told += c.Err.Error() + "\n"
			}
		}
		for i := 2; i+16 <= len(secret); i++ {
			if strings.Contains(told, secret[i:i+16]) {
				t.Fatalf("a key is told:\n%s", told)
			}
		}
		Hosts([]*Script{s}, []string{""})
	})
}
