package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// otherWords are what people call a setting elsewhere, and what is never in this file.
var otherWords = map[string]string{
	"interface": "write dev", "device": "write dev", "iface": "write dev", "nic": "write dev",
	"addr": "write address", "ip": "write address", "host": "write address, or hosts for the list of them",
	"left": "write hosts: both ends are in one list", "right": "write hosts: both ends are in one list",
	"local": "write hosts: both ends are in one list", "remote": "write hosts: both ends are in one list",
	"peer": "write hosts: both ends are in one list", "peers": "write hosts",
	"subnet": "write subnets, a list", "networks": "write subnets", "leftsubnet": "write subnets, at the host", "rightsubnet": "write subnets, at the host",
	"proto": "write protocol", "sport": "write ports, and at for which host has them", "dport": "write ports, and at for which host has them",
	"port":          "write ports, a list",
	"replay-window": "write window", "replay_window": "write window", "keysize": "write key-size", "encapsulation": "write encap",
	"ifid": "write if_id", "if-id": "write if_id", "rekey": "write rotate", "rotation": "write rotate", "lifetimes": "write lifetime", "limit": "write lifetime",
	"soft": "write it in lifetime", "every": "write it in rotate", "policies": "write selectors", "clear": "write bypass",
	"priority": "leave it out: the narrower traffic comes first", "spi": "leave it out: SPIs are chosen when SAs are installed",
	"reqid": "leave it out: it follows from the tunnel's name and its hosts", "key": noSecrets, "keys": noSecrets, "psk": noSecrets,
	"secret": noSecrets, "password": noSecrets, "passphrase": noSecrets, "aead": noSecrets, "salt": noSecrets,
	"user": "write it in ssh: USER@HOST", "mtu": "leave it out: it follows from the path", "<<": "merge keys are not read: write what all tunnels share in defaults",
}

const noSecrets = "take it out: no secret is ever in this file, keys are made when SAs are installed"

// didYouMean is the word nearest to the one written, else what to do without.
func didYouMean(word string, words []string, otherwise string) string {
	best, distance := "", 1+max(1, len(word)/3)
	for _, w := range words {
		if d := editDistance(strings.ToLower(word), w, distance); d < distance {
			best, distance = w, d
		}
	}
	if best == "" {
		return otherwise
	}
	return "did you mean " + best + "?"
}

// editDistance is how many letters to change, add, leave out, or exchange with their neighbour to
// make b of a; limit or more once it is no less.
func editDistance(a, b string, limit int) int {
	if abs(len(a)-len(b)) >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			change := last[j]
			if a[i] != b[j] {
				change++
			}
			row[j+1] = min(change, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func abs(n int) int { return max(n, -n) }

// oneOf is a list for a sentence: a, b or c.
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// quoted is a text of the file for a message: of one line, and short.
func quoted(text string) string {
	const most = 40
	if utf8.RuneCountInString(text) > most {
		text = string([]rune(text)[:most]) + "…"
	}
	return fmt.Sprintf("%q", text)
}
