package xfrm

import (
	"fmt"
	"strings"

	"espalier/ipsec"
)

// algorithmWords are the keywords of ALGO. An SA has one of each kind: encryption or AEAD,
// authentication, compression.
var algorithmWords = []keyword[*stateBuilder]{
	{name: "enc", taken: hasAlgorithm("enc"), parse: func(c *cursor, b *stateBuilder) error {
		return b.algorithm(c, "enc", &b.Crypt)
	}},
	{name: "auth", taken: hasAlgorithm("auth"), parse: func(c *cursor, b *stateBuilder) error {
		return b.algorithm(c, "auth", &b.Auth)
	}},
	{name: "auth-trunc", taken: hasAlgorithm("auth-trunc"), parse: parseAuthTrunc},
	{name: "aead", taken: hasAlgorithm("aead"), parse: parseAEAD},
	{name: "comp", taken: hasAlgorithm("comp"), parse: parseComp},
}

// hasAlgorithm reports whether an SA has an algorithm with which one more does not go.
func hasAlgorithm(what string) func(*stateBuilder) bool {
	return func(b *stateBuilder) bool {
		authenticates := b.Auth != nil || b.AuthTrunc != nil
		switch what {
		case "enc":
			return b.Crypt != nil || b.AEAD != nil
		case "auth", "auth-trunc":
			return authenticates || b.AEAD != nil
		case "aead":
			return b.Crypt != nil || authenticates || b.AEAD != nil
		}
		return b.Comp != nil
	}
}

// free refuses a second algorithm of a kind.
func (b *stateBuilder) free(c *cursor, what string) error {
	if hasAlgorithm(what)(b) {
		return c.wrong("does not go with the algorithm before it: one enc and one auth, or one aead")
	}
	return nil
}

// algorithm reads NAME KEY.
func (b *stateBuilder) algorithm(c *cursor, what string, to **Algorithm) error {
	if err := b.free(c, what); err != nil {
		return err
	}
	name, k, err := b.nameAndKey(c, what)
	if err != nil {
		return err
	}
	*to = &Algorithm{Name: name, Key: k, KeyBits: uint32(k.Len() * 8)}
	return nil
}

// parseAuthTrunc reads NAME KEY BITS.
func parseAuthTrunc(c *cursor, b *stateBuilder) error {
	a, bits, err := b.withICV(c, "auth-trunc")
	if err != nil {
		return err
	}
	b.AuthTrunc = &AuthTrunc{Name: a.Name, Key: a.Key, KeyBits: a.KeyBits, TruncBits: bits}
	return nil
}

// parseAEAD reads NAME KEY ICVBITS.
func parseAEAD(c *cursor, b *stateBuilder) error {
	a, bits, err := b.withICV(c, "aead")
	if err != nil {
		return err
	}
	b.AEAD = &AEAD{Name: a.Name, Key: a.Key, KeyBits: a.KeyBits, ICVBits: bits}
	return nil
}

// withICV reads NAME KEY BITS.
func (b *stateBuilder) withICV(c *cursor, what string) (a *Algorithm, bits uint32, err error) {
	if err = b.algorithm(c, what, &a); err == nil {
		bits, err = icvBits(c, what)
	}
	return a, bits, err
}

// parseComp reads NAME.
func parseComp(c *cursor, b *stateBuilder) error {
	if err := b.free(c, "comp"); err != nil {
		return err
	}
	name, err := algorithmName(c, "comp", "such as deflate")
	if err != nil {
		return err
	}
	b.Comp = &Algorithm{Name: name}
	return nil
}

func (b *stateBuilder) nameAndKey(c *cursor, what string) (name string, k ipsec.Key, err error) {
	example := "AES-GCM is aead '" + AEADName + "'"
	if what != "aead" {
		example = "such as 'cbc(aes)' or 'hmac(sha256)'"
	}
	if name, err = algorithmName(c, what, example); err != nil {
		return "", ipsec.Key{}, err
	}
	k, err = key(c, b.cmd, what)
	return name, k, err
}

// algorithmNames are common names of Linux (net/xfrm/xfrm_algo.c) by keyword. They are offered; any
// other will do.
var algorithmNames = map[string][]string{
	"aead":       {AEADName, "rfc4309(ccm(aes))", "rfc4543(gcm(aes))", "rfc7539esp(chacha20,poly1305)"},
	"enc":        {"cbc(aes)", "rfc3686(ctr(aes))", "cbc(camellia)", "ecb(cipher_null)"},
	"auth":       {"hmac(sha256)", "hmac(sha384)", "hmac(sha512)", "cmac(aes)", "xcbc(aes)", "hmac(sha1)"},
	"auth-trunc": {"hmac(sha256)", "hmac(sha384)", "hmac(sha512)", "cmac(aes)", "xcbc(aes)", "hmac(sha1)"},
	"comp":       {"deflate"},
}

func algorithmName(c *cursor, what, example string) (string, error) {
	c.offer(algorithmNames[what]...)
	name, err := c.value("the name of an algorithm")
	if err != nil {
		return "", err
	}
	// The kernel's structs have room for 63 bytes and a zero. No name begins with 0x, but a
	// key in its place does.
	if name == "" || len(name) >= maxName || strings.HasPrefix(name, "0x") {
		return "", &SyntaxError{Index: c.pos - 1, Context: c.context(),
			Problem: fmt.Sprintf("word %d is not the name of an algorithm; %s", c.pos, example)}
	}
	return name, nil
}

// icvBits reads the length of an ICV. The word is not quoted in errors: if the two before it
// were swapped, it is the key.
func icvBits(c *cursor, what string) (uint32, error) {
	if !c.more() {
		if what == "aead" {
			c.offer("128", "96", "64")
		}
		c.want("a number of bits")
		return 0, &SyntaxError{Index: c.pos, Context: c.context(),
			Problem: what + " needs the length of the ICV in bits after the key, such as 128"}
	}
	bits, err := parseNumber(c.next(), 32)
	if err != nil {
		return 0, &SyntaxError{Index: c.pos - 1, Context: c.context(),
			Problem: fmt.Sprintf("the ICV length of %s (word %d) is not a number of bits, such as 128", what, c.pos)}
	}
	return uint32(bits), nil
}

// checkAlgorithms refuses algorithms and modes that do not go with the protocol, as ip does
// before it sends anything.
func (b *stateBuilder) checkAlgorithms(c *cursor) error {
	encrypts, authenticates := b.Crypt != nil || b.AEAD != nil, b.Auth != nil || b.AuthTrunc != nil
	proto := ProtocolName(b.id.proto)
	bad := func(format string, args ...any) error {
		return c.semantic(fmt.Sprintf("proto "+proto+" "+format, args...))
	}
	switch b.id.proto {
	case protoESP:
		switch {
		case b.Comp != nil:
			return bad("does not compress: comp is of proto comp")
		case !encrypts:
			return c.semantic("a key is missing: aead '" + AEADName + "' KEY 128 (or enc NAME KEY) is required with proto esp")
		}
	case protoAH:
		switch {
		case encrypts || b.Comp != nil:
			return bad("takes auth or auth-trunc only")
		case !authenticates:
			return bad("requires auth NAME KEY or auth-trunc NAME KEY BITS")
		}
	case protoComp:
		switch {
		case encrypts || authenticates:
			return bad("takes comp only")
		case b.Comp == nil:
			return bad("requires comp NAME")
		}
	default:
		if encrypts || authenticates || b.Comp != nil {
			return bad("takes no algorithm")
		}
	}
	return nil
}

func (b *stateBuilder) checkMode(c *cursor) error {
	allowed := true
	switch b.id.proto {
	case protoESP:
		allowed = b.Mode == ModeTransport || b.Mode == ModeTunnel || b.Mode == ModeBeet
	case protoAH, protoComp:
		allowed = b.Mode == ModeTransport || b.Mode == ModeTunnel
	case protoRoute2, protoHAO:
		if !b.modeGiven {
			return c.semantic(fmt.Sprintf("mode is required with proto %s", ProtocolName(b.id.proto)))
		}
		allowed = b.Mode == ModeRouteOptimization || b.Mode == ModeInTrigger
	}
	if !allowed {
		return c.semantic(fmt.Sprintf("mode %s does not go with proto %s", b.Mode, ProtocolName(b.id.proto)))
	}
	mobile := b.id.proto == protoRoute2 || b.id.proto == protoHAO
	switch {
	case mobile && !b.coaGiven:
		return c.semantic(fmt.Sprintf("coa is required with proto %s", ProtocolName(b.id.proto)))
	case !mobile && b.coaGiven:
		return c.semantic(fmt.Sprintf("coa does not go with proto %s: it is of hao and route2", ProtocolName(b.id.proto)))
	}
	return nil
}
