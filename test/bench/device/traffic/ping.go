package traffic

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"espalier/test/bench/device/hosts"
)

// Ping sends count echo requests from a host, 10 ms apart, and returns the round trips of those that
// were answered, in any order.
func Ping(ctx context.Context, from *hosts.Host, addr netip.Addr, count int) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(count)*10*time.Millisecond+grace)
	defer cancel()
	out, err := from.Run(ctx, "", "ping", "-n", "-i", "0.01", "-W", "1", "-c", strconv.Itoa(count), addr.String())
	if err != nil {
		return nil, err
	}
	trips, err := parsePing(out)
	if err == nil && len(trips) < count {
		err = fmt.Errorf("%d of %d answers", len(trips), count)
	}
	if err != nil {
		return nil, fmt.Errorf("ping %s: %w", addr, err)
	}
	return trips, nil
}

// Await waits until an address answers a host.
func Await(ctx context.Context, from *hosts.Host, addr netip.Addr) error {
	const patience = 20 * time.Second
	for begun := time.Now(); ; {
		_, err := Ping(ctx, from, addr, 1)
		if err == nil || ctx.Err() != nil || time.Since(begun) > patience {
			return err
		}
	}
}

func parsePing(out string) ([]time.Duration, error) {
	var trips []time.Duration
	for line := range strings.Lines(out) {
		_, after, answer := strings.Cut(line, " time=")
		if !answer {
			continue
		}
		ms, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(after), " ms"), 64)
		if err != nil {
			return nil, fmt.Errorf("%q has no time in it", line)
		}
		trips = append(trips, time.Duration(math.Round(ms*1e6)))
	}
	if len(trips) == 0 {
		return nil, errors.New("no answers")
	}
	return trips, nil
}

// Percentile is the value that a share of all, from 0 to 1, do not exceed (nearest rank); there is
// at least one.
func Percentile(all []time.Duration, share float64) time.Duration {
	s := slices.Sorted(slices.Values(all))
	rank := int(math.Ceil(share * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}
