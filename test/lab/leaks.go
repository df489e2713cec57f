package lab

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
)

// leakLength is how many bytes of a key in a row are not there by chance.
const leakLength = 8

// Leak tells in which form a text holds a part of a key: as bytes, in hexadecimal with or without
// something between, in base64, or as numbers; "" if in none.
func Leak(text, key []byte) string {
	folded := bytes.ToLower(text)
	for at := 0; at+leakLength <= len(key); at++ {
		part := key[at : at+leakLength]
		where := func(form string) string { return fmt.Sprintf("%s of bytes %d to %d", form, at, at+leakLength-1) }
		if bytes.Contains(text, part) {
			return where("bytes")
		}
		for _, between := range []string{"", " ", ":"} {
			if bytes.Contains(folded, []byte(joined(part, "%02x", between))) {
				return where("hexadecimal")
			}
		}
		for _, between := range []string{" ", ",", ", "} {
			if bytes.Contains(text, []byte(joined(part, "%d", between))) || bytes.Contains(folded, []byte(joined(part, "%#x", between))) {
				return where("numbers")
			}
		}
		for _, form := range base64Forms(part) {
			if bytes.Contains(text, []byte(form)) {
				return where("base64")
			}
		}
	}
	return ""
}

func joined(b []byte, format, between string) string {
	var numbers []string
	for _, v := range b {
		numbers = append(numbers, fmt.Sprintf(format, v))
	}
	return strings.Join(numbers, between)
}

// base64Forms are the characters that hang on nothing but b, wherever b stands in what is encoded.
func base64Forms(b []byte) (forms []string) {
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := e.EncodeToString(append(make([]byte, before), b...))
			first, last := (8*before+5)/6, 8*(before+len(b))/6
			forms = append(forms, text[first:last])
		}
	}
	return forms
}
