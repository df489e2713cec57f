package hosts

import (
	"os"
	"testing"
	"time"
)

func TestStatus(t *testing.T) {
	const status = "Name:\tespalier\nVmPeak:\t 1234567 kB\nVmHWM:\t   65536 kB\nVmRSS:\t   32768 kB\nThreads:\t9\n"
	for _, c := range []struct {
		field string
		want  uint64
	}{{"VmHWM", 64 * MiB}, {"VmRSS", 32 * MiB}, {"Threads", 0}, {"VmSwap", 0}, {"Vm", 0}} {
		got, err := parseStatus(status, c.field)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s: got %d, %v", c.field, got, err)
		}
	}
}

func TestTicks(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 300 21 12 13 20 0"
	for _, c := range []struct {
		stat string
		want int
	}{{"42 (espalier)" + rest, 321}, {"42 (a ) b (c)" + rest, 321}, {"42 (espalier) S 1", 0}, {"", 0}} {
		got, err := parseTicks(c.stat, 14)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%q: got %d, %v", c.stat, got, err)
		}
	}
}

// Of this process the kernel tells what is so.
func TestOwnUsage(t *testing.T) {
	before, err := Ticks(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	held := make([]byte, 32*MiB)
	for begun := time.Now(); time.Since(begun) < 30*time.Second; {
		for i := range held {
			held[i]++
		}
		if now, err := Ticks(os.Getpid()); err != nil || now > before+2 {
			break
		}
	}
	after, err := Ticks(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("ticks %d, then %d: %v", before, after, err)
	}
	now, err := Memory(os.Getpid())
	if err != nil || now < 32*MiB {
		t.Errorf("memory %d: %v", now, err)
	}
	if peak, err := PeakMemory(os.Getpid()); err != nil || peak < now {
		t.Errorf("peak memory %d, memory %d: %v", peak, now, err)
	}
	held[0]++
}

func TestDrops(t *testing.T) {
	got, err := parseDrops(`{"schema":"x","drops":[{"reason":"in-no-sa","packets":3},{"reason":"in-replay","packets":0}]}`)
	if err != nil || len(got) != 2 || got["in-no-sa"] != 3 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, out := range []string{"", "{}", `{"drops":[]}`} {
		if got, err := parseDrops(out); err == nil {
			t.Errorf("%q: got %v", out, got)
		}
	}
}
