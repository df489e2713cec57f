package cli

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// writeScripts writes what changes on each host as a file for ip -batch, with new keys in it. They are
// all there or none.
func writeScripts(dir string, p *tunnel.Plan) (written []string, err error) {
	if err := privateDir(dir); err != nil {
		return nil, err
	}
	defer p.Wipe()
	if err := p.Fill(rand.Reader); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, name := range written {
				os.Remove(name)
			}
			written = nil
		}
	}()
	taken := map[string]bool{}
	for i := range p.Hosts {
		text, err := script(p, i)
		if err != nil {
			return written, err
		}
		if text == nil {
			continue
		}
		name := filepath.Join(dir, scriptName(p.Hosts[i].Name, taken))
		err = writeNew(name, text, secret)
		clear(text)
		if err != nil {
			return written, err
		}
		written = append(written, name)
	}
	return written, nil
}

// privateDir makes a directory that only this user may look into, or takes one that is so.
func privateDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is no directory", dir)
	case int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0:
		return fmt.Errorf("%s can be looked into by others, and keys would be in it: name a new directory, or chmod 700 %s", dir, dir)
	}
	return nil
}

// scriptName is made of a host's name: what is no letter, digit, dot or hyphen is left out.
func scriptName(host string, taken map[string]bool) string {
	_, name, found := strings.Cut(host, "@")
	if !found {
		name = host
	}
	name = strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, strings.TrimLeft(name, ".-"))
	one := name
	for n := 2; taken[one]; n++ {
		one = fmt.Sprintf("%s-%d", name, n)
	}
	taken[one] = true
	return one + ".batch"
}

// script is the file of a host, nil if nothing changes there. It holds keys.
func script(p *tunnel.Plan, host int) ([]byte, error) {
	diff := p.Diff(host)
	if len(diff) == 0 {
		return nil, nil
	}
	opt := xfrm.FormatOptions{ShowKey: true, InterfaceName: deviceNames(p.Hosts[host].Facts)}
	room := 0
	for range diff {
		room += 1 << 10 // longer than any line, so that no copy is left behind
	}
	b := bytes.NewBuffer(make([]byte, 0, 4<<10+room))
	fmt.Fprintf(b, `# SAs and policies of %s. There are keys in here: keep it from others, and delete it when it was used.
# Run it on all hosts at the same time: %s
# It fails where it was run before: keys never serve twice.
`, p.Hosts[host].Name, runLine(p, host))
	section := ""
	for i := range diff {
		d := &diff[i]
		title, line, err := batchLine(d, opt)
		if err != nil {
			return nil, err
		}
		if title != section {
			section = title
			fmt.Fprintf(b, "# %s\n", title)
		}
		b.WriteString(line + "\n")
	}
	return b.Bytes(), nil
}

// runLine is how the script of a host is run.
func runLine(p *tunnel.Plan, host int) string {
	for e := range p.EndsOf(host) {
		if e.Engine != "kernel" {
			return "espalier xfrm --sad " + e.Engine + " -batch FILE"
		}
	}
	return "ip -batch FILE"
}

// batchLine is a line as ip -batch takes it, and what it is part of.
func batchLine(d *tunnel.Difference, opt xfrm.FormatOptions) (title, line string, err error) {
	if d.SA != nil {
		s, err := steps.LinuxState(d.SA)
		if err != nil {
			return "", "", err
		}
		if d.Sign == tunnel.Removed {
			line = "ip xfrm state delete src " + s.Src.String() + " dst " + s.Dst.String() + " proto esp spi " + s.SPI.String()
			if s.Mark != nil {
				line += fmt.Sprintf(" mark %#x mask %#x", s.Mark.Value, s.Mark.Mask)
			}
			return "What is old", strings.TrimPrefix(line, "ip "), nil
		}
		title = "Inbound SAs"
		if d.Outbound() {
			title = "Outbound SAs"
		}
		return title, strings.TrimPrefix(xfrm.FormatState(s, opt), "ip "), nil
	}
	policy, err := steps.LinuxPolicy(d.Policy)
	if err != nil {
		return "", "", err
	}
	if d.Sign == tunnel.Removed {
		id := &xfrm.Policy{Sel: policy.Sel, Dir: policy.Dir, Mark: policy.Mark, IfID: policy.IfID, Limits: xfrm.NoLimits}
		return "What is old", strings.Replace(strings.TrimPrefix(xfrm.FormatPolicy(id, opt), "ip "), "policy add", "policy delete", 1), nil
	}
	title = "What goes in clear, and what is accepted"
	if policy.Dir == xfrm.PolicyOut && d.Policy.Action == ipsec.Protect {
		title = "What is sent"
	}
	return title, strings.Replace(strings.TrimPrefix(xfrm.FormatPolicy(policy, opt), "ip "), "policy add", "policy update", 1), nil
}

// tellScripts says what was written.
func tellScripts(w io.Writer, written []string) error {
	if len(written) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("\nKeys are in these files, which only you can read. Copy each to its host, run it there with\nip -batch FILE (or as its first lines say), and delete it:\n")
	for _, name := range written {
		b.WriteString("  " + name + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
