package config

import (
	"fmt"
	"maps"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// wrong is why a text is no value of its type.
type wrong struct{ what, instead string }

func (w *wrong) Error() string { return w.what + ": " + w.instead }

// Duration is a time in whole seconds, written with units: 90s, 30m, 8h, 7d, 1h30m.
type Duration time.Duration

// Never is for Rotate.Every alone.
const Never Duration = -1

const day = 24 * time.Hour

// longest keeps sums of durations far from overflow.
const longest = 10 * 365 * day

var durationForm = regexp.MustCompile(`^(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?$`)

func (d *Duration) UnmarshalText(text []byte) error {
	if string(text) == "never" {
		*d = Never
		return nil
	}
	parts := durationForm.FindStringSubmatch(string(text))
	if parts == nil || len(text) == 0 {
		instead := "write it as 90s, 30m, 8h or 7d"
		if isNumber(string(text)) {
			instead = fmt.Sprintf("write %ss, or with another unit: m, h, d", text)
		}
		return &wrong{fmt.Sprintf("%s is no time", quoted(string(text))), instead}
	}
	var sum time.Duration
	for i, unit := range []time.Duration{day, time.Hour, time.Minute, time.Second} {
		n, _ := strconv.ParseInt("0"+parts[i+1], 10, 64)
		if n > int64(longest/unit) {
			sum = longest
			break
		}
		sum += time.Duration(n) * unit
	}
	if sum <= 0 || sum >= longest {
		return &wrong{fmt.Sprintf("a time of %s makes no sense", quoted(string(text))), "write less than 3650d, and more than nothing"}
	}
	*d = Duration(sum)
	return nil
}

func (d Duration) String() string {
	if d == Never {
		return "never"
	}
	var b strings.Builder
	rest := time.Duration(d)
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if u.of == day && (rest < 2*day || rest%day != 0) {
			continue // 24h and 36h say more
		}
		if n := rest / u.of; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			rest -= n * u.of
		}
	}
	return b.String()
}

func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d Duration) std() time.Duration { return max(time.Duration(d), 0) }

// Bytes is an amount of data, written with a unit: 64GiB; kB, MB, GB, TB are powers of 1000.
type Bytes uint64

var bytesForm = regexp.MustCompile(`^(\d{1,19})(B|KiB|MiB|GiB|TiB|PiB|kB|MB|GB|TB|PB)$`)

func (b *Bytes) UnmarshalText(text []byte) error {
	parts := bytesForm.FindStringSubmatch(string(text))
	if parts == nil {
		return &wrong{fmt.Sprintf("%s is no amount of data", quoted(string(text))), "write it as 64GiB, 500GB or 1TiB"}
	}
	n, err := strconv.ParseUint(parts[1], 10, 64)
	over, product := bits.Mul64(n, unitOf(parts[2]))
	if err != nil || over != 0 || product > 1<<63 || product == 0 {
		return &wrong{fmt.Sprintf("an amount of %s makes no sense", quoted(string(text))), "write it as 64GiB, or leave it out for no limit"}
	}
	*b = Bytes(product)
	return nil
}

func unitOf(name string) uint64 {
	if name == "B" {
		return 1
	}
	exponent := strings.IndexByte("KMGTP", strings.ToUpper(name)[0]) + 1
	if strings.HasSuffix(name, "iB") {
		return 1 << (10 * exponent)
	}
	unit := uint64(1)
	for range exponent {
		unit *= 1000
	}
	return unit
}

// String is exact: the largest unit that leaves a whole number.
func (b Bytes) String() string {
	for _, unit := range []string{"PiB", "PB", "TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB"} {
		if u := unitOf(unit); b != 0 && uint64(b)%u == 0 {
			return strconv.FormatUint(uint64(b)/u, 10) + unit
		}
	}
	return strconv.FormatUint(uint64(b), 10) + "B"
}

func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// Percent is a share in hundredths, 1 to 100.
type Percent uint8

func (p *Percent) UnmarshalText(text []byte) error {
	digits, found := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseUint(digits, 10, 8)
	if !found || err != nil || n < 1 || n > 100 {
		return &wrong{fmt.Sprintf("%s is no share", quoted(string(text))), "write it as 80%"}
	}
	*p = Percent(n)
	return nil
}

func (p Percent) String() string               { return strconv.Itoa(int(p)) + "%" }
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// of never rounds up to the whole.
func (p Percent) of(n uint64) uint64 { return n/100*uint64(p) + n%100*uint64(p)/100 }

// Mark is a fwmark and which of its bits count. The zero value is none.
type Mark struct{ Value, Mask uint32 }

func (m *Mark) UnmarshalText(text []byte) error {
	if string(text) == "none" {
		*m = Mark{}
		return nil
	}
	value, mask, masked := strings.Cut(string(text), "/")
	v, err := strconv.ParseUint(value, 0, 32)
	k := uint64(0xffffffff)
	if masked && err == nil {
		k, err = strconv.ParseUint(mask, 0, 32)
	}
	switch {
	case err != nil:
		return &wrong{fmt.Sprintf("%s is no mark", quoted(string(text))), "write it as 0x10/0xff, VALUE/MASK of 32 bits"}
	case k == 0:
		return &wrong{fmt.Sprintf("mark %s has an empty mask: it matches all", text), "give it a mask, or leave it out"}
	case v&^k != 0:
		return &wrong{fmt.Sprintf("mark %s has bits outside of its mask: nothing matches it", text), fmt.Sprintf("write %#x/%#x", v, v|k)}
	}
	*m = Mark{uint32(v), uint32(k)}
	return nil
}

func (m Mark) String() string {
	if m.Mask == 0 {
		return "none"
	}
	return fmt.Sprintf("%#x/%#x", m.Value, m.Mask)
}

func (m Mark) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Window is an anti-replay window in packets; 0 is auto.
type Window uint32

func (w *Window) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*w = 0
		return nil
	}
	n, err := strconv.ParseUint(string(text), 0, 32)
	switch {
	case err != nil:
		return &wrong{fmt.Sprintf("%s is no window", quoted(string(text))), "write a number of packets, 32 to 4096, or auto"}
	case n == 0:
		return &wrong{"a window of 0 delivers packets again that were captured and sent a second time", "write 64 or more, or auto"}
	case n < 32 || n > 4096:
		return &wrong{fmt.Sprintf("a window of %d packets is too %s", n, map[bool]string{true: "small", false: "large"}[n < 32]), "write 32 to 4096, or auto"}
	}
	*w = Window(n)
	return nil
}

func (w Window) String() string {
	if w == 0 {
		return "auto"
	}
	return strconv.FormatUint(uint64(w), 10)
}

// MarshalYAML writes a number as a number.
func (w Window) MarshalYAML() (any, error) {
	if w == 0 {
		return "auto", nil
	}
	return uint32(w), nil
}

// Spread is what tells an SA between two hosts from the next one.
type Spread uint8

const (
	SpreadAuto  Spread = iota // by what the engine can best
	SpreadCount               // SAs.Count of them
	SpreadCPU                 // the CPU that sends (Linux XFRMA_SA_PCPU)
	SpreadPorts               // the port: each has a lane of its own
)

// SAs is how many SAs there are in each direction between two hosts. The zero value is auto.
type SAs struct {
	By    Spread
	Count uint16 // for SpreadCount
}

// most SAs between two hosts: more than hosts have CPUs that would gain.
const mostSAs = 256

func (s *SAs) UnmarshalText(text []byte) error {
	words := map[string]Spread{"auto": SpreadAuto, "per-cpu": SpreadCPU, "ports": SpreadPorts}
	if by, ok := words[string(text)]; ok {
		*s = SAs{By: by}
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 16)
	if err != nil || n < 1 || n > mostSAs {
		return &wrong{fmt.Sprintf("%s is no number of SAs", quoted(string(text))), fmt.Sprintf("write auto, per-cpu, ports, or 1 to %d", mostSAs)}
	}
	*s = SAs{By: SpreadCount, Count: uint16(n)}
	return nil
}

func (s SAs) String() string {
	if s.By == SpreadCount {
		return strconv.Itoa(int(s.Count))
	}
	return map[Spread]string{SpreadAuto: "auto", SpreadCPU: "per-cpu", SpreadPorts: "ports"}[s.By]
}

// MarshalYAML writes a number as a number.
func (s SAs) MarshalYAML() (any, error) {
	if s.By == SpreadCount {
		return s.Count, nil
	}
	return s.String(), nil
}

// Protocol is an IP protocol number; 0 is any.
type Protocol uint8

// protocolNames are of IANA's list those that carry traffic between hosts.
var protocolNames = map[string]Protocol{
	"any": 0, "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47,
	"icmpv6": 58, "ospf": 89, "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
}

const (
	protocolESP = 50
	protocolAH  = 51
)

func (p *Protocol) UnmarshalText(text []byte) error {
	if n, ok := protocolNames[string(text)]; ok {
		*p = n
		return nil
	}
	n, err := strconv.ParseUint(string(text), 10, 8)
	if err != nil {
		return &wrong{fmt.Sprintf("there is no protocol %s", quoted(string(text))), didYouMean(string(text), slices.Sorted(maps.Keys(protocolNames)), "write a name such as tcp, or a number to 255")}
	}
	if n == protocolESP || n == protocolAH {
		return &wrong{fmt.Sprintf("protocol %d is IPsec itself", n), "leave it out: it is not encrypted twice"}
	}
	*p = Protocol(n)
	return nil
}

func (p Protocol) String() string {
	for name, n := range protocolNames {
		if n == p {
			return name
		}
	}
	return strconv.Itoa(int(p))
}

// MarshalYAML writes a number as a number.
func (p Protocol) MarshalYAML() (any, error) {
	if name := p.String(); !isNumber(name) {
		return name, nil
	}
	return uint8(p), nil
}

// hasPorts: the protocols whose ports a selector can see.
func (p Protocol) hasPorts() bool { return slices.Contains([]Protocol{6, 17, 33, 132, 136}, p) }

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}
