package xfrm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// number reads an unsigned number in C notation: 0x… is hexadecimal, 0… octal.
func number[N ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~int](c *cursor, dst *N, bits int, what string) error {
	word, err := c.value(what)
	if err != nil {
		return err
	}
	v, err := parseNumber(word, bits)
	if err != nil {
		return c.wrong(fmt.Sprintf("is not %s: %v", what, err))
	}
	*dst = N(v)
	return nil
}

func parseNumber(word string, bits int) (uint64, error) {
	digits, base := word, 10
	switch {
	case strings.HasPrefix(word, "0x"), strings.HasPrefix(word, "0X"):
		digits, base = word[2:], 16
	case strings.HasPrefix(word, "0"):
		base = 8
	}
	v, err := strconv.ParseUint(digits, base, bits)
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("it does not fit in %d bits", bits)
	case base == 8 && len(word) > 1:
		return 0, errors.New("a leading 0 means octal")
	}
	return 0, errors.New("a number without a unit goes here")
}

func optionalNumber(c *cursor, dst **uint32, what string) error {
	*dst = new(uint32)
	return number(c, *dst, 32, what)
}

// named reads one of the names of a table.
func named[N ~uint8 | ~uint16 | ~uint32](c *cursor, dst *N, names nameTable, what string) error {
	if c.atGap() {
		c.offer(names.names()...)
	}
	word, err := c.value("")
	if err != nil {
		return err
	}
	v, ok := names.value(word)
	if !ok {
		return c.wrong("is not "+what, names.names()...)
	}
	*dst = N(v)
	return nil
}

func optionalNamed[N ~uint8 | ~uint16 | ~uint32](c *cursor, dst **N, names nameTable, what string) error {
	*dst = new(N)
	return named(c, *dst, names, what)
}

func namedBool(c *cursor, dst *bool, names nameTable, what string) error {
	var v uint8
	err := named(c, &v, names, what)
	*dst = v != 0
	return err
}

// flags reads names up to a word that is none, and adds them; or a hexadecimal number, which
// replaces what came before. The word behind must be one of the grammar around, so that a
// word that is neither is an error there.
func flags[N ~uint8 | ~uint32](c *cursor, dst *N, names nameTable, bits int) error {
	if !c.more() {
		c.offer(names.names()...)
		c.want("a set of flags")
		return c.wrong("needs a value", names.names()...)
	}
	if strings.HasPrefix(c.peek(), "0x") {
		return number(c, dst, bits, "a set of flags")
	}
	for c.more() {
		v, ok := names.value(c.peek())
		if !ok {
			c.leave(names)
			break
		}
		*dst |= N(v)
		c.pos++
	}
	if c.atGap() {
		c.offer(names.names()...)
	}
	return nil
}

// mark reads `N [mask N]`; the mask is all ones unless given. With a mask of 0 ip sends none.
func mark(c *cursor, dst **Mark) error {
	m, err := readMark(c)
	if *dst = &m; m.Mask == 0 {
		*dst = nil
	}
	return err
}

// outputMark reads `N [mask N]`. ip sends neither a mark of 0 nor a mask of 0, and to Linux a
// mark without a mask is one of all bits, a mask without a mark nothing.
func outputMark(c *cursor, dst **Mark) error {
	m, err := readMark(c)
	if m.Mask == 0 {
		m.Mask = ^uint32(0)
	}
	if *dst = &m; m.Value == 0 {
		*dst = nil
	}
	return err
}

func readMark(c *cursor) (Mark, error) {
	m := Mark{Mask: ^uint32(0)}
	if err := number(c, &m.Value, 32, "a mark"); err != nil {
		return m, err
	}
	c.offer("mask")
	if c.peek() != "mask" {
		return m, nil
	}
	c.pos++
	return m, number(c, &m.Mask, 32, "a mask")
}

// address reads ADDR[/LEN] and keeps host bits and length. `any`, `all` and `default` are ::/0 or
// 0/0 where the family is known. ip calls a bad address a semantic error.
func address(c *cursor, dst *netip.Prefix) error {
	word, err := c.value(ValueAddress)
	if err != nil {
		return err
	}
	if anyAddress(word) {
		if c.family == 0 {
			return c.wrong("does not say which address family: leave it out, or write 0/0 or ::/0")
		}
		*dst = netip.PrefixFrom(unspecified(c.family), 0)
		return nil
	}
	p, err := parsePrefix(word)
	if err != nil {
		return c.semanticWord("is not an address: " + err.Error())
	}
	if c.family != 0 && c.family != prefixFamily(p) {
		return c.semanticWord("is an address of the other family than the one asked for (-4, -6) or used before")
	}
	*dst = p
	return nil
}

func anyAddress(word string) bool { return word == "any" || word == "all" || word == "default" }

// anyFamily calls f with addresses of both families allowed. The family it used, if any, is that
// of the addresses to come.
func (c *cursor) anyFamily(f func() error) error {
	family := c.family
	c.family = 0
	err := f()
	if c.family == 0 {
		c.family = family
	}
	return err
}

// setFamily makes the family of an address that was given that of those to come.
func (c *cursor) setFamily(prefixes ...netip.Prefix) {
	for _, p := range prefixes {
		if p.IsValid() {
			c.family = prefixFamily(p)
		}
	}
}

// hostAddress reads ADDR, of either family.
func hostAddress(c *cursor, dst *netip.Addr) error {
	word, err := c.value(ValueAddress)
	if err != nil || anyAddress(word) {
		return err
	}
	if *dst, err = parseAddr(word); err != nil {
		return c.semanticWord("is not an address: " + err.Error())
	}
	return nil
}

func parsePrefix(word string) (netip.Prefix, error) {
	name, length, hasLength := strings.Cut(word, "/")
	addr, err := parseAddr(name)
	if err != nil {
		return netip.Prefix{}, err
	}
	n := addr.BitLen()
	if hasLength {
		if n, err = parsePrefixLength(length, addr.BitLen()); err != nil {
			return netip.Prefix{}, err
		}
	}
	return netip.PrefixFrom(addr, n), nil
}

// parseAddr also takes the short IPv4 forms of ip: 10.1 is 10.1.0.0, unlike in inet_aton.
func parseAddr(name string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(name)
	if err != nil && name != "" && len(name) <= 15 && strings.Trim(name, "0123456789.") == "" {
		for strings.Count(name, ".") < 3 {
			name += ".0"
		}
		addr, err = netip.ParseAddr(name)
	}
	if err != nil {
		return addr, errors.New("IPv4 and IPv6 addresses go here, with /LENGTH or without")
	}
	if addr.Zone() != "" {
		return addr, errors.New("a zone (%interface) cannot be part of it")
	}
	return addr, nil
}

// parsePrefixLength takes 0–32, 0–128 or an IPv4 netmask.
func parsePrefixLength(word string, max int) (int, error) {
	if mask, err := netip.ParseAddr(word); err == nil && mask.Is4() && max == 32 {
		b := mask.As4()
		m := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		n := bits.LeadingZeros32(^m)
		if m != uint32(^uint64(0)<<(32-n)) {
			return 0, errors.New("the netmask has holes")
		}
		return n, nil
	}
	n, err := parseNumber(word, 8)
	if err != nil || int(n) > max {
		return 0, fmt.Errorf("the prefix length goes from 0 to %d", max)
	}
	return int(n), nil
}

func prefixFamily(p netip.Prefix) uint16 {
	if p.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// device reads the name of a network interface.
func device(c *cursor) (name string, index int, err error) {
	if name, err = c.value(ValueInterface); err != nil {
		return "", 0, err
	}
	if c.env.Interface == nil {
		return "", 0, c.wrong("is an interface, and interfaces cannot be looked up here")
	}
	if index, err = c.env.Interface(name); err != nil {
		return "", 0, c.wrong("is not an interface of this host: " + err.Error())
	}
	return name, index, nil
}

// maxKeyLen bounds a key; the longest AES-GCM key with its salt has 36 bytes.
const maxKeyLen = 512

// key reads KEY: 0x and hexadecimal digits, @FILE, or literal ASCII. what tells whose key
// it is. No error repeats any of it.
func key(c *cursor, cmd *Command, what string) (ipsec.Key, error) {
	if what == "aead" {
		c.offer(generateKey)
	}
	c.want(ValueKey)
	if !c.more() {
		return ipsec.Key{}, c.wrong("needs a key after it")
	}
	word := c.next()
	where := fmt.Sprintf("the key of %s (word %d)", what, c.pos)
	bad := func(problem string) error {
		return &SyntaxError{Index: c.pos - 1, Context: c.context(), Problem: where + " " + problem}
	}
	if word == generateKey {
		if what != "aead" {
			return ipsec.Key{}, bad("cannot be made up: its length is not known")
		}
		return ipsec.RandomKey(32 + 4), nil
	}
	path, ok := strings.CutPrefix(word, "@")
	if word == "-" {
		path, ok = word, true
	}
	if ok {
		if c.env.KeyFile == nil {
			return ipsec.Key{}, bad("is in a file, and files cannot be read here")
		}
		content, err := c.env.KeyFile(path)
		if err != nil {
			return ipsec.Key{}, bad("cannot be read: " + err.Error())
		}
		defer clear(content)
		if cmd.KeyFiles == nil {
			cmd.KeyFiles = map[string]string{}
		}
		cmd.KeyFiles[what] = path
		k, err := parseKeyFile(content)
		if err != nil {
			return ipsec.Key{}, bad("is in file " + path + ", which " + err.Error())
		}
		return k, nil
	}
	cmd.KeyTyped = true
	digits, isHex := strings.CutPrefix(word, "0x")
	if !isHex {
		if word == "" || len(word) > maxKeyLen {
			return ipsec.Key{}, bad("is empty or too long")
		}
		return ipsec.NewKey([]byte(word)), nil
	}
	k, err := parseHexKey(digits)
	if err != nil {
		return ipsec.Key{}, bad(err.Error())
	}
	return k, nil
}

// generateKey stands for a fresh key of AES-256, and its salt (RFC 4106 section 8.1).
const generateKey = "--generate-key"

// parseKeyFile finds the one line of a key file that is not blank or a # comment.
func parseKeyFile(content []byte) (ipsec.Key, error) {
	found := ""
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if found != "" {
			return ipsec.Key{}, errors.New("holds more than one line")
		}
		found = line
	}
	digits, ok := strings.CutPrefix(found, "0x")
	if !ok {
		return ipsec.Key{}, errors.New("must hold one line: 0x and hexadecimal digits")
	}
	k, err := parseHexKey(digits)
	if err != nil {
		return ipsec.Key{}, errors.New("holds a line that " + err.Error())
	}
	return k, nil
}

// parseHexKey pads an odd number of digits on the left. Its errors complete "the key …".
func parseHexKey(digits string) (ipsec.Key, error) {
	if digits == "" {
		return ipsec.Key{}, errors.New("has no digits after 0x")
	}
	if len(digits)%2 == 1 {
		digits = "0" + digits
	}
	if len(digits) > 2*maxKeyLen {
		return ipsec.Key{}, errors.New("is too long")
	}
	b, err := hex.DecodeString(digits)
	if err != nil {
		return ipsec.Key{}, errors.New("is not hexadecimal after 0x")
	}
	defer clear(b)
	return ipsec.NewKey(b), nil
}
