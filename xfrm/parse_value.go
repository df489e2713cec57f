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
	word, err := c.value()
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
	word, err := c.value()
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

// flags reads names until a word that is none, or a single hexadecimal number.
func flags[N ~uint8 | ~uint32](c *cursor, dst *N, names nameTable, bits int) error {
	if _, err := c.value(); err != nil {
		return err
	}
	c.pos--
	if word := c.peek(); strings.HasPrefix(word, "0x") {
		return number(c, dst, bits, "a set of flags")
	}
	*dst = 0
	for n := 0; c.more(); n++ {
		v, ok := names.value(c.peek())
		if !ok {
			if n == 0 {
				c.pos++
				return c.wrong("is not a flag", names.names()...)
			}
			break
		}
		*dst |= N(v)
		c.pos++
	}
	return nil
}

// mark reads `N [mask N]`; the mask is all ones unless given.
func mark(c *cursor, dst **Mark) error {
	m := &Mark{Mask: ^uint32(0)}
	if err := number(c, &m.Value, 32, "a mark"); err != nil {
		return err
	}
	if c.peek() == "mask" {
		c.pos++
		if err := number(c, &m.Mask, 32, "a mask"); err != nil {
			return err
		}
	}
	*dst = m
	return nil
}

// address reads ADDR[/LEN] and keeps host bits and length.
func address(c *cursor, dst *netip.Prefix) error {
	word, err := c.value()
	if err != nil {
		return err
	}
	p, err := parsePrefix(word)
	if err != nil {
		return c.wrong("is not an address: " + err.Error())
	}
	if c.env.Family != 0 && c.env.Family != prefixFamily(p) {
		return c.wrong("is an address of the other family than the one asked for (-4, -6)")
	}
	*dst = p
	return nil
}

// hostAddress reads ADDR[/LEN] and drops the length.
func hostAddress(c *cursor, dst *netip.Addr) error {
	var p netip.Prefix
	err := address(c, &p)
	*dst = p.Addr()
	return err
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
	if name != "" && len(name) <= 15 && strings.Trim(name, "0123456789.") == "" {
		for strings.Count(name, ".") < 3 {
			name += ".0"
		}
	}
	addr, err := netip.ParseAddr(name)
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
	if name, err = c.value(); err != nil {
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
	word, err := c.value()
	if err != nil {
		return ipsec.Key{}, err
	}
	where := fmt.Sprintf("the key of %s (word %d)", what, c.pos)
	bad := func(problem string) error {
		return &SyntaxError{Index: c.pos - 1, Context: c.context, Problem: where + " " + problem}
	}
	if path, ok := strings.CutPrefix(word, "@"); ok {
		if c.env.KeyFile == nil {
			return ipsec.Key{}, bad("is in a file, and files cannot be read here")
		}
		content, err := c.env.KeyFile(path)
		if err != nil {
			return ipsec.Key{}, bad("cannot be read: " + err.Error())
		}
		defer clear(content)
		cmd.KeyFile, cmd.KeyTyped = path, false
		k, err := parseKeyFile(content)
		if err != nil {
			return ipsec.Key{}, bad("is in file " + path + ", which " + err.Error())
		}
		return k, nil
	}
	cmd.KeyFile, cmd.KeyTyped = "", true
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
