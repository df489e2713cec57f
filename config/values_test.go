package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"
)

// TestValues: texts mean what they should, and are written so that they mean it again.
func TestValues(t *testing.T) {
	h := Duration(time.Hour)
	for _, c := range []struct {
		text  string
		want  any
		again string // how it is written
	}{
		{"90s", Duration(90 * time.Second), "1m30s"}, {"8h", 8 * h, "8h"}, {"24h", 24 * h, "24h"}, {"7d", 168 * h, "7d"},
		{"1d12h", 36 * h, "36h"}, {"1d2h3m4s", 26*h + Duration(184*time.Second), "26h3m4s"}, {"3649d", 3649 * 24 * h, "3649d"},
		{"never", Never, "never"},
		{"64GiB", Bytes(64 << 30), "64GiB"}, {"1kB", Bytes(1000), "1kB"}, {"500GB", Bytes(500e9), "500GB"}, {"1025B", Bytes(1025), "1025B"},
		{"8192PiB", Bytes(1 << 63), "8192PiB"}, {"1024MiB", Bytes(1 << 30), "1GiB"},
		{"1%", Percent(1), "1%"}, {"100%", Percent(100), "100%"},
		{"0x10/0xff", Mark{0x10, 0xff}, "0x10/0xff"}, {"7", Mark{7, math.MaxUint32}, "0x7/0xffffffff"}, {"none", Mark{}, "none"}, {"0/1", Mark{0, 1}, "0x0/0x1"},
		{"auto", Window(0), "auto"}, {"64", Window(64), "64"}, {"4096", Window(4096), "4096"}, {"32", Window(32), "32"},
		{"auto", SAs{}, "auto"}, {"per-cpu", SAs{By: SpreadCPU}, "per-cpu"}, {"ports", SAs{By: SpreadPorts}, "ports"}, {"256", SAs{SpreadCount, 256}, "256"},
		{"tcp", Protocol(6), "tcp"}, {"any", Protocol(0), "any"}, {"6", Protocol(6), "tcp"}, {"200", Protocol(200), "200"},
		{"tcp/22", Traffic{Protocol: 6, Ports: []uint16{22}}, "tcp/22"}, {"icmp", Traffic{Protocol: 1}, "icmp"},
	} {
		got := reflect.New(reflect.TypeOf(c.want))
		if err := got.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(c.text)); err != nil || !reflect.DeepEqual(got.Elem().Interface(), c.want) {
			t.Errorf("%T %q: got %v, %v", c.want, c.text, got.Elem(), err)
		}
		if again := fmt.Sprint(c.want); again != c.again {
			t.Errorf("%T %q is written %q, want %q", c.want, c.text, again, c.again)
		}
	}
	for _, c := range []struct {
		into  encoding.TextUnmarshaler
		texts []string
	}{
		{new(Duration), []string{"", "0s", "8", "8 h", "-8h", "8h30", "1.5h", "3650d", "999999999d999999999h", "1h1d", "8H", "forever"}},
		{new(Bytes), []string{"", "0B", "64", "64G", "64gib", "-1B", "9999999999999999999PiB", "16385PiB", "8193PiB", "99999999999999999999B"}},
		{new(Percent), []string{"", "0%", "101%", "80", "80.5%", "%", "-1%", "300%"}},
		{new(Mark), []string{"", "/", "1/", "0x100000000", "1/0", "2/1", "-1", "1/2/3"}},
		{new(Window), []string{"", "0", "31", "4097", "-64", "64.5", "99999999999"}},
		{new(SAs), []string{"", "0", "257", "-1", "percpu"}},
		{new(Protocol), []string{"", "50", "51", "256", "-1", "tcq"}},
		{new(Traffic), []string{"", "tcp/", "tcp/65536", "tcp/1-2", "tcp/22/23", "/22", "tcp//"}},
	} {
		for _, text := range c.texts {
			if err := c.into.UnmarshalText([]byte(text)); err == nil {
				t.Errorf("%T takes %q", c.into, text)
			}
		}
	}
}

func TestShareOf(t *testing.T) {
	for _, c := range []struct {
		share   Percent
		n, want uint64
	}{{80, 1000, 800}, {99, 100, 99}, {50, 7, 3}, {100, math.MaxUint64, math.MaxUint64}, {90, math.MaxUint64, 16602069666338596453}} {
		if got := c.share.of(c.n); got != c.want {
			t.Errorf("%s of %d: %d, want %d", c.share, c.n, got, c.want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	words := []string{"offload", "esn", "window", "bypass", "rotate"}
	for word, want := range map[string]string{
		"ofload": "offload", "offlaod": "offload", "OFFLOAD": "offload", "windows": "window", "wnidow": "window", "bypas": "bypass", "ens": "esn",
		"colour": "", "x": "", "": "", "offloading-of-everything": "",
	} {
		otherwise := "nothing like it"
		got := didYouMean(word, words, otherwise)
		if want != "" && got != "did you mean "+want+"?" || want == "" && got != otherwise {
			t.Errorf("%q: %s, want %q", word, got, want)
		}
	}
}
