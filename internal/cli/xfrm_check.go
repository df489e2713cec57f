package cli

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

// warn tells what will work but is unsafe or vain.
func (r *xfrmRun) warn(j job) {
	for _, w := range r.warnings(j) {
		r.warning(j, w)
	}
}

func (r *xfrmRun) warning(j job, text string) {
	fmt.Fprintf(r.stderr, "warning: %s%s\n", r.place(j), text)
}

func (r *xfrmRun) warnings(j job) []string {
	var w []string
	if j.KeyTyped {
		switch {
		case j.line == 0:
			w = append(w, "the key is visible in the process list and shell history; use @FILE for it")
		case r.batchIsOpen:
			w = append(w, "the key is in a file that others can read; chmod 600 it, or use @FILE for it")
		}
	}
	s := j.State
	if s == nil {
		return w
	}
	replays := s.Proto == unix.IPPROTO_ESP || s.Proto == unix.IPPROTO_AH
	if replays && s.ReplayWindow == 0 && s.Dir != xfrm.StateDirOut {
		w = append(w, "no anti-replay: captured packets can be replayed; add replay-window 64")
	}
	if replays && s.SPI == 0 {
		w = append(w, "spi 0 never occurs on the wire (RFC 4303 §2.1)")
	}
	for _, l := range []struct {
		name  string
		value uint64
	}{
		{"byte-soft", s.Limits.SoftBytes}, {"byte-hard", s.Limits.HardBytes},
		{"packet-soft", s.Limits.SoftPackets}, {"packet-hard", s.Limits.HardPackets},
	} {
		if l.value == 0 {
			w = append(w, "limit "+l.name+" 0 is reached with the first packet; leave it out for no limit")
		}
	}
	if s.Offload != nil {
		w = append(w, offloadWarnings(s)...)
	}
	return w
}

// offloadWarnings are what the NICs known to offload ESP do not take. The kernel may then
// encrypt in software without a word.
func offloadWarnings(s *xfrm.State) []string {
	var w []string
	switch a := s.AEAD; {
	case a == nil || a.Name != xfrm.AEADName:
		w = append(w, "NICs offload only aead '"+xfrm.AEADName+"'")
	case a.ICVBits != 128:
		w = append(w, "NICs offload only a 128-bit ICV")
	case a.Key.Len() == 28:
		w = append(w, "NICs offload AES-128 and AES-256, not AES-192")
	}
	if p := s.Sel.Protocol; p != 0 && p != 6 && p != 17 {
		w = append(w, fmt.Sprintf("NICs offload selectors of tcp, udp or any protocol, not of %s", xfrm.IPProtocolName(p)))
	}
	if s.Encap != nil && s.Offload.Flags&xfrm.OffloadPacket == 0 {
		w = append(w, "NICs do not offload UDP encapsulation in crypto mode")
	}
	return w
}

// showJobs is --dry-run: it prints what would be sent, and fails on what is known to be
// refused.
func (r *xfrmRun) showJobs(jobs []job) error {
	var failures []string
	for _, j := range jobs {
		var bad []string
		if j.State != nil && !r.ipCompat {
			bad = r.foresee(j)
		}
		if r.format.isData() {
			if err := writeData(r.stdout, r.format, r.dryRunView(j, bad)); err != nil {
				return err
			}
		} else if _, err := fmt.Fprintf(r.stdout, "[#] %s\n", r.commandLine(j.Command)); err != nil {
			return err
		}
		for _, b := range bad {
			failures = append(failures, "would be refused: "+r.place(j)+b)
		}
	}
	if failures != nil {
		return &exitError{exitXfrmSemantic, fmt.Errorf("xfrm: %s", strings.Join(failures, "\n"))}
	}
	return nil
}

// commandLine is the command in full words, without its key.
func (r *xfrmRun) commandLine(cmd *xfrm.Command) string {
	opt := xfrm.FormatOptions{KeyFiles: cmd.KeyFiles, InterfaceName: r.names.name}
	line := ""
	switch {
	case cmd.State != nil:
		line = xfrm.FormatState(cmd.State, opt)
	case cmd.Policy != nil:
		line = xfrm.FormatPolicy(cmd.Policy, opt)
	default:
		return fmt.Sprintf("ip xfrm %s %s", cmd.Object, cmd.Verb)
	}
	if cmd.Verb == xfrm.VerbUpdate {
		line = strings.Replace(line, " add ", " update ", 1)
	}
	return line
}
