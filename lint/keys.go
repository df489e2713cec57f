package lint

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/script"
)

// keys finds what is unsafe about keys, wherever they stand.
func (r *Report) keys(hosts []*host) (found []Finding) {
	for _, s := range r.scripts {
		found = append(found, r.keysOf(s)...)
	}
	var uses []keyUse
	for _, h := range hosts {
		for i, s := range h.States {
			if k, name := keyOf(s, h.StateAt[i]); name != "" {
				uses = append(uses, keyUse{h, i, name})
			} else if k.Len() > 0 {
				sum := sha256.Sum256(k.ExposeSecretBytes())
				uses = append(uses, keyUse{h, i, string(sum[:])})
			}
		}
	}
	first := map[string]keyUse{}
	for _, u := range uses {
		before, again := first[u.key]
		if !again {
			first[u.key] = u
			continue
		}
		if f, ok := reused(before, u); ok {
			found = append(found, f)
		}
	}
	for _, h := range hosts {
		for i, s := range h.States {
			for _, k := range keysIn(s) {
				why := weak(k.Key)
				if auth := strings.HasPrefix(k.Word, "auth"); auth && why == "" && k.Key.Len() < 16 {
					why = fmt.Sprintf("has %d bits only: fewer than 128 can be found by trying", 8*k.Key.Len())
				}
				if why == "" {
					continue
				}
				what := "a key"
				if k.Word != "aead" {
					what = "a key of " + k.Word
				}
				found = append(found, h.placed(Finding{ID: WeakKey, Severity: Warning, About: aboutState(s), States: []int{i}, Text: "has " + what + " that " + why,
					Fix:  "make keys at random, new ones each time: espalier xfrm --generate-key, or head -c 36 /dev/urandom",
					mend: func() ([]edit, string) { return r.newKey(s, k.Word) }}))
			}
		}
	}
	return found
}

// keysOf finds keys in places where others see them.
func (r *Report) keysOf(s *script.Script) (found []Finding) {
	source := r.sources[slices.Index(r.scripts, s)]
	here, firstLine := 0, 0
	told := map[string]bool{}
	for i := range s.Commands {
		c := &s.Commands[i]
		if c.Parsed == nil || c.Parsed.State == nil {
			continue
		}
		at := Place{s.Name, c.Line}
		opaque := false
		for _, path := range c.Parsed.KeyFiles {
			if strings.HasPrefix(path, "$") {
				opaque = true
				continue
			}
			if r.options.KeyMode == nil || told[path] {
				continue
			}
			if mode, ok := r.options.KeyMode(path); ok && mode.Perm()&0o077 != 0 {
				told[path] = true
				found = append(found, Finding{ID: KeyReadable, Severity: Warning, About: "the key's file", Place: at,
					Text: open(mode), Fix: "chmod 600 it, and make a new key: this one may be known"})
			}
		}
		if c.Parsed.KeyTyped && c.Typed {
			text := "its key is on a command line: all users see it in the list of processes"
			if !opaque {
				text += ", and each run installs the same key again, and repeats nonces"
			}
			found = append(found, Finding{ID: KeyOnCommandLine, Severity: Warning, About: aboutState(c.Parsed.State), Place: at, Text: text,
				Fix:  "espalier xfrm takes @FILE and makes keys (--generate-key); ip takes them by ip -batch, from a file made anew each time",
				mend: undecided("ip takes keys in its words alone: use espalier xfrm with @FILE, or ip -batch")})
		}
		if c.Parsed.KeyTyped && !opaque {
			if here++; here == 1 {
				firstLine = c.Line
			}
		}
	}
	if here > 0 && source.Mode.Perm()&0o077 != 0 {
		found = append(found, Finding{ID: KeyReadable, Severity: Warning, About: "the file", Place: Place{s.Name, firstLine},
			Text: fmt.Sprintf("%s, and has %s in it", open(source.Mode), map[bool]string{true: "a key", false: fmt.Sprintf("%d keys", here)}[here == 1]),
			Fix:  "chmod 600 it, and make new keys: these may be known", mend: mended})
	}
	return found
}

// open says what others can do with a file.
func open(mode fs.FileMode) string {
	can := "read or changed"
	switch {
	case mode&0o022 == 0:
		can = "read"
	case mode&0o044 == 0:
		can = "changed"
	}
	return fmt.Sprintf("can be %s by others (mode %04o)", can, mode.Perm())
}

// keyUse is an SA and what tells its key from others.
type keyUse struct {
	host  *host
	state int
	key   string
}

func (u keyUse) sa() *xfrm.State { return u.host.States[u.state] }

// keyOf is the key of an AEAD, or, if it is elsewhere, where.
func keyOf(s *xfrm.State, at script.At) (k ipsec.Key, name string) {
	if s.AEAD == nil {
		return ipsec.Key{}, ""
	}
	if path := at.Command.Parsed.KeyFiles["aead"]; strings.HasPrefix(path, "$") {
		return ipsec.Key{}, at.Script.Name + path
	} else if path != "" && path != "-" {
		return ipsec.Key{}, path
	}
	return s.AEAD.Key, ""
}

// namedKey is a key and the word that it follows, but for the algorithm's name.
type namedKey struct {
	Word string
	Key  ipsec.Key
}

// keysIn are the keys of an SA, as far as they are known.
func keysIn(s *xfrm.State) (keys []namedKey) {
	add := func(word string, k ipsec.Key) {
		if k.Len() > 0 {
			keys = append(keys, namedKey{word, k})
		}
	}
	if s.AEAD != nil {
		add("aead", s.AEAD.Key)
	}
	if s.Crypt != nil {
		add("enc", s.Crypt.Key)
	}
	if s.Auth != nil {
		add("auth", s.Auth.Key)
	}
	if s.AuthTrunc != nil {
		add("auth-trunc", s.AuthTrunc.Key)
	}
	return keys
}

// reused reports two SAs of one key that are not the two ends of one SA. Ends that have different SPIs by mistake are.
func reused(a, b keyUse) (Finding, bool) {
	one, other := a.sa(), b.sa()
	if one.Src == other.Src && one.Dst == other.Dst && a.host != b.host {
		return Finding{}, false
	}
	f := Finding{ID: KeyReused, Severity: Error, About: aboutState(other), States: []int{b.state}, Also: []Place{place(a.host.StateAt[a.state])},
		Fix: "give each SA a key of its own, at both ends, and new ones each time"}
	where := f.Also[0].Position()
	if one.Src == other.Dst && one.Dst == other.Src {
		f.Text = "has the key of the other direction (" + where + "): both count their nonces from 1, and two packets of one nonce give both plaintexts away"
	} else {
		f.Text = "has the key of another SA (" + where + "): both count their nonces from 1, and two packets of one nonce give both plaintexts away"
	}
	return b.host.placed(f), true
}

// weak says why a key is known to others, "" if it may be secret.
func weak(k ipsec.Key) string {
	raw := k.ExposeSecretBytes()
	if len(raw) < 2 {
		return ""
	}
	sum := sha256.Sum256(raw)
	if slices.Contains(published, hex.EncodeToString(sum[:])) {
		return "stands in the NIC vendor's documentation: everybody has it"
	}
	different := map[byte]bool{}
	steps := 0
	for i, b := range raw {
		different[b] = true
		if i > 0 && b-raw[i-1] == raw[1]-raw[0] {
			steps++
		}
	}
	// Of as many random bytes, fewer different ones are less likely than one in a million, and of 20 or more than one in 10^10.
	if len(different) < min(10, (len(raw)+1)/2) || steps > len(raw)/2 {
		return "has a pattern: it can be guessed"
	}
	text := 0
	for _, b := range raw {
		if b >= ' ' && b <= '~' {
			text++
		}
	}
	if text == len(raw) {
		return "is text: it has far less in it than as many random bytes"
	}
	return ""
}

// published are SHA-256 of the keys in the NIC vendor's examples.
var published = []string{
	"997ce76cb8d84bc4aca461ff7b74357101248e80f8b3f3b4376c86301b60211f",
	"40c560486a6bd7efa76c0f7e6f4347cbb8ef20a8e324295fd1dc398c4fae9a02",
	"0b3dfc6e1a51a2e03e8e4935b5f80d8027e326102a63103943774f35012f6028",
	"45407d2ea7445440805c0f7768ac85e643fc895bdf4caabe947a209606c0a38a",
}
