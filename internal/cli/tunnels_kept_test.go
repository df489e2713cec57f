package cli

import (
	"testing"
	"time"

	"espalier/config"
	"espalier/tunnel"
)

// Only SAs that stay, and whose sequence numbers end within hours, have to be rotated by somebody.
func TestEnds(t *testing.T) {
	of := &config.Tunnel{}
	for _, c := range []struct {
		pair tunnel.Pair
		want bool
	}{
		{tunnel.Pair{Of: of, ESN: true}, false},
		{tunnel.Pair{Of: of}, true},
		{tunnel.Pair{Action: tunnel.Remove}, false},
	} {
		if got := ends(&tunnel.Plan{Pairs: []tunnel.Pair{{Of: of, ESN: true}, c.pair}}); got != c.want {
			t.Errorf("%+v: %v", c.pair, got)
		}
	}
}

// SAs without ESN on a fast link are looked at often enough: at 100 Gb/s a quarter of 2³² packets is left
// for 132 s when they are due at three quarters.
func TestPeriod(t *testing.T) {
	for _, c := range []struct {
		pair tunnel.Pair
		want time.Duration
	}{
		{tunnel.Pair{ESN: true, Speed: 100_000, Rotate: tunnel.Rotation{Every: 8 * time.Hour, Share: 0.75}}, soon},
		{tunnel.Pair{Speed: 100_000, Rotate: tunnel.Rotation{Every: time.Hour, Share: 0.75}}, 66 * time.Second},
		{tunnel.Pair{Speed: 1_000, Rotate: tunnel.Rotation{Every: 16 * time.Minute, Share: 0.75}}, 2 * time.Minute},
		{tunnel.Pair{Action: tunnel.Remove, Rotate: tunnel.Rotation{Every: time.Minute}}, soon},
		{tunnel.Pair{Rotate: tunnel.Rotation{}, ESN: true}, soon},
	} {
		if got := period(&tunnel.Plan{Pairs: []tunnel.Pair{c.pair}}); got != c.want {
			t.Errorf("%+v: %s, want %s", c.pair, got, c.want)
		}
	}
}
