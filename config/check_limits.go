package config

import (
	"fmt"
	"time"
)

// The least that makes sense: an SA that ends sooner is rotated all the time. Soft limits are half of
// it or more.
const (
	leastTime    = 2 * leastEvery
	leastEvery   = Duration(time.Minute)
	leastBytes   = Bytes(1 << 20)
	leastPackets = 1000
	mostShare    = Percent(90) // rotating takes time, at line rate
)

// limits checks key size, lifetime and rotation.
func (c *checker) limits(t *Tunnel) {
	switch t.KeySize {
	case 128, 256:
	case 192:
		c.problem(t.place, "key-size", "a key-size of 192 is refused by NICs", "write 128 or 256")
	default:
		c.problem(t.place, "key-size", fmt.Sprintf("there is no AES of %d bits", t.KeySize), "write 128 or 256")
	}
	l := t.Lifetime
	limits := []struct {
		name                 string
		soft, hard, least    uint64
		softText, text       string
		leastText, leastSoft string
	}{
		{"time", uint64(l.Soft.Time), uint64(l.Time), uint64(leastTime), l.Soft.Time.String(), l.Time.String(), leastTime.String(), (leastTime / 2).String()},
		{"bytes", uint64(l.Soft.Bytes), uint64(l.Bytes), uint64(leastBytes), l.Soft.Bytes.String(), l.Bytes.String(), leastBytes.String(), (leastBytes / 2).String()},
		{"packets", l.Soft.Packets, l.Packets, leastPackets, fmt.Sprint(l.Soft.Packets), fmt.Sprint(l.Packets), fmt.Sprint(leastPackets), fmt.Sprint(leastPackets / 2)},
	}
	for _, limit := range limits {
		hardAt, softAt := "lifetime."+limit.name, "lifetime.soft."+limit.name
		switch {
		case limit.name == "time" && l.Time == Never:
			c.problem(t.place, hardAt, "a lifetime that never ends is none", "leave it out")
		case limit.name == "time" && l.Soft.Time == Never:
			c.problem(t.place, softAt, "a soft limit that is never reached is none", "leave it out")
		case limit.hard == 0 && c.given(t.place, hardAt):
			c.problem(t.place, hardAt, "a limit of 0 is reached from the start", "leave it out for no limit")
		case limit.hard > 0 && limit.hard < limit.least:
			c.problem(t.place, hardAt, fmt.Sprintf("a lifetime of %s: rotation would never end", limit.text), fmt.Sprintf("write %s or more", limit.leastText))
		case limit.hard == 0 && limit.soft > 0:
			c.problem(t.place, softAt, fmt.Sprintf("a soft limit of %s without a hard one", limit.name), fmt.Sprintf("add %s to lifetime, or leave it out", limit.name))
		case limit.hard > 0 && limit.soft >= limit.hard:
			c.problem(t.place, softAt, fmt.Sprintf("the soft limit of %s, %s, is not below the hard one, %s", limit.name, limit.softText, limit.text), "write less, or leave it out for 80%")
		case limit.hard > 0 && limit.soft < limit.least/2:
			c.problem(t.place, softAt, fmt.Sprintf("a soft limit of %s: rotation would never end", limit.softText), fmt.Sprintf("write %s or more, or leave it out for 80%%", limit.leastSoft))
		}
	}
	r := t.Rotate
	switch {
	case r.Every != Never && r.Every < leastEvery && c.given(t.place, "rotate"):
		c.problem(t.place, "rotate.every", fmt.Sprintf("rotating every %s", r.Every), "write 1m or more")
	case r.Every != Never && l.Time > 0 && r.Every >= l.Time:
		c.problem(t.place, "rotate.every", fmt.Sprintf("SAs end after %s, before they are rotated after %s", l.Time, r.Every), "write less than the lifetime, or leave it out")
	}
	if r.AtMostShare > mostShare {
		c.problem(t.place, "rotate.at-most-share", fmt.Sprintf("at most %s of the sequence numbers leaves no time to rotate", r.AtMostShare), fmt.Sprintf("write %s or less", mostShare))
	}
}
