package cli

import (
	"fmt"
	"math"
	"strings"
)

// Quantities for a person: at most four figures.

// lasting is a time in its two largest units: "41 s", "3 h 12 min".
func lasting(seconds float64) string {
	if seconds >= 100*365.25*86400 {
		return "centuries"
	}
	units := []struct {
		name string
		size int64
	}{{"y", 31557600}, {"d", 86400}, {"h", 3600}, {"min", 60}, {"s", 1}}
	n := int64(seconds)
	for i, u := range units {
		if n < u.size && u.size > 1 {
			continue
		}
		text := fmt.Sprintf("%d %s", n/u.size, u.name)
		if i+1 < len(units) {
			if rest := n % u.size / units[i+1].size; rest > 0 {
				text += fmt.Sprintf(" %d %s", rest, units[i+1].name)
			}
		}
		return text
	}
	return "0 s"
}

// amount is a number of bytes: "1.2 GiB".
func amount(bytes float64) string {
	return scaled(bytes, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
}

// bitRate is "" for nothing.
func bitRate(perSecond float64) string {
	if perSecond == 0 {
		return ""
	}
	return scaled(perSecond, 1000, "b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s")
}

func packetRate(perSecond float64) string {
	if perSecond == 0 {
		return ""
	}
	return strings.TrimSuffix(scaled(perSecond, 1000, "", "k", "M", "G"), " ") + map[bool]string{true: " packet/s", false: " packets/s"}[perSecond == 1]
}

func scaled(n, base float64, units ...string) string {
	i := 0
	for n >= base && i < len(units)-1 {
		n, i = n/base, i+1
	}
	switch {
	case i == 0 && n == math.Trunc(n), n >= 100:
		return fmt.Sprintf("%.0f %s", n, units[i])
	case n >= 10:
		return fmt.Sprintf("%.1f %s", n, units[i])
	}
	return fmt.Sprintf("%.2f %s", n, units[i])
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, what)
}
