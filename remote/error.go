package remote

import (
	"fmt"
	"strings"
)

// Reason is the kind of thing that stands between here and espalier on another host.
type Reason string

const (
	Unreachable  Reason = "unreachable"        // no connection: name, route, port, time
	Unverified   Reason = "host key"           // the host's key is not known, or is another
	Denied       Reason = "login refused"      // no key, password or account was good enough
	Misused      Reason = "ssh"                // ssh does not start, or does not like its configuration
	NotRoot      Reason = "not root"           // the login is not root's, and sudo wants a password
	Unsuited     Reason = "unsuited"           // another architecture or version, no place for a copy
	Unexpected   Reason = "unexpected"         // the login's shell says or does something else
	Unresponsive Reason = "no answer"          // connected, but nothing came in time
	Lost         Reason = "connection is lost" // after it had been there
)

// Error says why a host cannot be used, with what ssh or the far side said.
type Error struct {
	Host   string // the destination as it was given
	Reason Reason
	Detail string // may be of several lines
}

func (e *Error) Error() string {
	if e.Detail == "" {
		return fmt.Sprintf("%s: %s", e.Host, e.Reason)
	}
	return fmt.Sprintf("%s: %s: %s", e.Host, e.Reason, e.Detail)
}

// sshFailure makes a sentence of how ssh ended before espalier was there: its exit code is 255 for
// all that is its own, and its words tell what.
func sshFailure(host, said string) *Error {
	line := lastLine(said)
	e := &Error{Host: host, Reason: Misused, Detail: line}
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(said, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("REMOTE HOST IDENTIFICATION HAS CHANGED"):
		e.Reason = Unverified
		e.Detail = "it is not the one that is known for this host. Either the host was set up anew, or this is another host: compare " +
			"the keys before you take the known one out with ssh-keygen -R"
	case has("Host key verification failed"):
		e.Reason = Unverified
		e.Detail = "it is not known here. Connect once with ssh " + host + ", and compare the key"
	case has("Permission denied", "Too many authentication failures", "No more authentication methods"):
		e.Reason = Denied
	case has("Could not resolve hostname", "Connection refused", "No route to host", "Network is unreachable", "onnection timed out",
		"Operation timed out", "Connection closed by", "Connection reset by", "kex_exchange_identification", "Timeout, server"):
		e.Reason = Unreachable
	case line == "":
		e.Detail = "it ended with status 255 and did not say why"
	}
	return e
}

// lastLine is the last line that says something. ssh's lines end with CR LF.
func lastLine(said string) string {
	lines := strings.Split(strings.TrimSpace(said), "\n")
	return plain(lines[len(lines)-1])
}

// plain is Printable without what surrounds it.
func plain(text string) string { return strings.TrimSpace(Printable(text)) }

// Printable makes what another host said fit for a terminal: control characters, line ends among
// them, and marks that turn the direction of text become spaces.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return ' '
		}
		return r
	}, text)
}
