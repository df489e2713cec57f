package dataplane

import "time"

// keepalive is when an SA sends NAT keepalives: one byte after every interval in which it has sent
// nothing else, so that a NAT does not forget the way back (RFC 3948 §2.3). As in Linux the first
// one goes at once unless the SA has been used, and opens that way. It is the keeper's alone; the
// packet path only notes when it has sent, as it does for limits of idleness.
type keepalive struct {
	interval time.Duration // 0: none
	sent     time.Time     // the last one; guarded by Device.control
}

// examine reports whether one is due, and when to look again. used is when the SA has last sent.
func (k *keepalive) examine(now, used time.Time) (due bool, next time.Time) {
	if k.interval == 0 {
		return false, time.Time{}
	}
	quiet := used
	if k.sent.After(quiet) {
		quiet = k.sent
	}
	if next := quiet.Add(k.interval); now.Before(next) {
		return false, next
	}
	k.sent = now
	return true, now.Add(k.interval)
}

// keepAlive sends a keepalive if one is due, and gives the time to look again. It is no packet of
// the SA and is not counted. One that cannot be sent is not made up for.
func (d *Device) keepAlive(a *association, now time.Time) (next time.Time) {
	due, next := a.keepalive.examine(now, unixTime(a.last.Load()))
	e := a.encap.Load()
	if !due || e == nil {
		return next
	}
	if err := d.aside(e.ends.Local, e.ends.Remote, []byte{natKeepalive}); err != nil {
		d.log.Debug("NAT keepalive", "spi", a.sa.SPI, "to", e.ends.Remote, "err", err)
	}
	return next
}

// natKeepalive is all there is in one.
const natKeepalive = 0xff
