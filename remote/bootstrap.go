package remote

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Root says whose rights the far side has.
type Root string

const (
	AsLogin      Root = "no"     // those of the login
	RootIfCan    Root = "if can" // root's, by the login or by sudo -n; else those of the login
	RootRequired Root = "must"   // root's, or an error
)

// bootstrap is what the login's shell gets as its command: one line for whatever shell, so without
// quotes, backslashes and exclamation marks; sh does the work. It speaks in lines with a number
// that nothing else on the way can know:
//
//	N facts UID OS MACHINE SIZE CLIENT SERVER PORT PATH   of the host, and of an espalier there
//	← run | copy BYTES KILOBYTES
//	N place DIR, or N noplace                        for the copy, whose bytes follow
//	                                                 then espalier speaks, see ServeStdio
//
// Nothing is sent ahead of an answer: sh may read more than it needs. A place is a directory of
// its own where a file can be executed (an empty one is, as a script), with room. Whatever
// happens to the shell but SIGKILL, the place goes with it; espalier, once it runs, has it removed
// already.
const bootstrap = `umask 077; n=@NONCE@; r=@ROOT@; PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH; ` +
	`clean() { [ -z "$d" ] || rm -rf "$d"; }; d=; trap clean EXIT; trap "exit 1" HUP INT TERM PIPE; ` +
	`set -- ${SSH_CONNECTION:-- - - -}; c=$1; s=$3; o=$4; u=$(id -u); p=$(command -v espalier); case $p in /*) ;; *) p=;; esac; ` +
	`h=; [ -z "$p" ] || h=$(wc -c <"$p"); ` +
	`echo; echo "$n facts $u $(uname -s) $(uname -m) ${h:--} $c $s ${o:--} $p"; ` +
	`read -r verb size room || exit 1; ` +
	`if [ "$verb" = copy ]; then ` +
	`for t in /tmp /var/tmp /dev/shm "$XDG_RUNTIME_DIR" "$HOME"; do ` +
	`[ -n "$t" ] && d=$(mktemp -d "$t/espalier.XXXXXXXXXX" 2>/dev/null) || { d=; continue; }; ` +
	`p=$d/espalier; : >"$p"; chmod 700 "$p"; ` +
	`"$p" </dev/null 2>/dev/null && df -Pk "$d" | { read -r x; read -r a b e f x; [ "$f" -ge "$room" ]; } && break; ` +
	`clean; d=; done; ` +
	`[ -n "$d" ] || { echo "$n noplace"; exit 1; }; ` +
	`echo "$n place $d"; w=; command -v timeout >/dev/null && w="timeout 900"; ` +
	`$w head -c "$size" >"$p" && [ "$(wc -c <"$p")" -eq "$size" ] || exit 1; ` +
	`set -- "$p" remote-agent --copy $n; else set -- "$p" remote-agent $n; fi; ` +
	`if [ "$u" = 0 ] || [ $r = no ]; then "$@"; ` +
	`elif [ $r = must ] || sudo -n -- "$p" version </dev/null >/dev/null 2>&1; then sudo -n -- "$@"; ` +
	`else "$@"; fi`

// bootstrapCommand is the command for ssh.
func bootstrapCommand(nonce string, root Root) string {
	r := map[Root]string{"": "no", AsLogin: "no", RootIfCan: "can", RootRequired: "must"}[root]
	return "exec sh -c '" + strings.NewReplacer("@NONCE@", nonce, "@ROOT@", r).Replace(bootstrap) + "'"
}

// facts are what the far side's shell found.
type facts struct {
	uid, os, machine string
	size             string // of path, in bytes; "-" if it is not known
	client, server   string // addresses of the ssh connection, "-" if there is none
	port             string // of the server
	path             string // of an espalier that is installed there; "" if there is none
}

func parseFacts(rest string) (facts, error) {
	f := strings.SplitN(rest, " ", 8)
	if len(f) != 8 {
		return facts{}, fmt.Errorf("%w: facts of %d words", errFrame, len(f))
	}
	return facts{f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7]}, nil
}

// maxNoise is how much a login's shell may print before it comes to our command.
const maxNoise = 64 << 10

var errNoise = errors.New("something else is printed, again and again")

// awaitLine skips what the login's shell prints until a line of ours, and returns what follows
// the number and the word in it. noise is what was skipped.
func awaitLine(r *bufio.Reader, nonce string, words ...string) (word, rest string, noise []byte, err error) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				noise = append(noise, line...)
			}
			return "", "", noise, err
		}
		for _, w := range words {
			if _, after, ok := bytes.Cut(line, []byte(nonce+" "+w)); ok && (after[0] == ' ' || after[0] == '\n' || after[0] == '\r') {
				return w, strings.TrimPrefix(strings.TrimRight(string(after), "\r\n"), " "), noise, nil
			}
		}
		if noise = append(noise, line...); len(noise) > maxNoise {
			return "", "", noise, errNoise
		}
	}
}

// agentWord follows the number in the line that espalier itself says, before its frames.
const agentWord = "agent"
