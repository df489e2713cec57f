package traffic

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// As iperf3 3.12 prints them, without what is not read.
const (
	oneWay = `{"intervals": [
	{"sum": {"seconds": 1.0002, "bits_per_second": 14e9, "retransmits": 8, "sender": true}},
	{"sum": {"seconds": 1.0001, "bits_per_second": 15e9, "retransmits": 0, "sender": true}},
	{"sum": {"seconds": 0.0003, "bits_per_second": 1e9, "retransmits": 5, "sender": true}}],
	"end": {"sum_sent": {"bits_per_second": 14.9e9, "retransmits": 8}, "sum_received": {"seconds": 2.0003, "bits_per_second": 14.5e9}}}`
	bothWays = `{"intervals": [{"sum": {"seconds": 1.0, "retransmits": 33}, "sum_bidir_reverse": {"seconds": 1.0}}],
	"end": {"sum_sent": {"bits_per_second": 7.73e9}, "sum_received": {"bits_per_second": 7.5e9},
	"sum_sent_bidir_reverse": {"bits_per_second": 5.27e9}, "sum_received_bidir_reverse": {"bits_per_second": 5e9}}}`
	datagrams = `{"intervals": [{"sum": {"seconds": 1.0, "packets": 199360}}],
	"end": {"sum": {"lost_percent": 0.74}, "sum_sent": {"bytes": 12759040, "lost_percent": 0},
	"sum_received": {"seconds": 2, "bytes": 12664704, "lost_packets": 1471, "packets": 199357, "lost_percent": 0.74}}}`
	refused = `{"intervals": [], "end": {}, "error": "unable to connect to server: Connection refused"}`
)

func TestParseTCP(t *testing.T) {
	got, err := parseTCP([]byte(oneWay), false)
	if err != nil || got.Rate != 14.5e9 || !slices.Equal(got.Retransmits, []int{8, 0}) {
		t.Errorf("one way: got %+v, %v", got, err)
	}
	got, err = parseTCP([]byte(bothWays), true)
	if err != nil || got.Rate != 12.5e9 || !slices.Equal(got.Retransmits, []int{33}) {
		t.Errorf("both ways: got %+v, %v", got, err)
	}
	for name, out := range map[string]string{
		"one way, but both are wanted": oneWay,
		"refused":                      refused,
		"nothing":                      "",
		"no result":                    "{}",
		"nothing received":             strings.ReplaceAll(bothWays, "e9", "e-999"),
		"no retransmissions":           strings.ReplaceAll(bothWays, "retransmits", "x"),
	} {
		if got, err := parseTCP([]byte(out), true); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if _, err := parseTCP([]byte(refused), false); err == nil || !strings.Contains(err.Error(), "Connection refused") {
		t.Errorf("refused: %v", err)
	}
}

func TestParseUDP(t *testing.T) {
	got, err := parseUDP([]byte(datagrams), 64)
	if err != nil || got.PerSecond != 12664704/64/2 || math.Abs(got.Loss-0.0074) > 1e-9 {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, out := range map[string]string{
		"refused": refused, "nothing": "", "no result": "{}", "TCP": oneWay,
		"nothing received": strings.Replace(datagrams, "12664704", "0", 1),
	} {
		if got, err := parseUDP([]byte(out), 64); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestParsePing(t *testing.T) {
	got, err := parsePing(`PING 10.7.0.2 (10.7.0.2) 56(84) bytes of data.
64 bytes from 10.7.0.2: icmp_seq=1 ttl=64 time=0.529 ms
64 bytes from 10.7.0.2: icmp_seq=2 ttl=64 time=12 ms

--- 10.7.0.2 ping statistics ---
2 packets transmitted, 2 received, 0% packet loss, time 200ms
rtt min/avg/max/mdev = 0.529/0.545/0.561/0.016 ms
`)
	if err != nil || !slices.Equal(got, []time.Duration{529 * time.Microsecond, 12 * time.Millisecond}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, out := range []string{"", "3 packets transmitted, 0 received, time 200ms\n", "icmp_seq=1 time=x ms\n"} {
		if got, err := parsePing(out); err == nil {
			t.Errorf("%q: got %v", out, got)
		}
	}
}

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for _, c := range []struct {
		all   []time.Duration
		share float64
		want  time.Duration
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1},
		{[]time.Duration{7}, 0.5, 7}, {[]time.Duration{7}, 0.99, 7},
		{[]time.Duration{3, 1, 2}, 0.5, 2}, {[]time.Duration{3, 1, 2}, 0.99, 3},
	} {
		if got := Percentile(c.all, c.share); got != c.want {
			t.Errorf("%v of %d: got %d, want %d", c.share, len(c.all), got, c.want)
		}
	}
}
