package report

import (
	"bytes"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{1, 2, 3, 4}, 3}} {
		if got := Median(c.in); got != c.want {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}

func TestOneUnmetTargetCounts(t *testing.T) {
	r := New()
	r.Add([]Result{{Name: "a", Met: true}, {Name: "b", Impl: "x", Peer: "y", Ratio: 0.5, Target: 1}})
	r.Add([]Result{{Name: "c", Met: true}})
	if r.OK {
		t.Error("ok with an unmet target")
	}
	var table bytes.Buffer
	if err := r.Print(&table, "table"); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(table.String(), "not met"); n != 1 {
		t.Errorf("%d lines say not met:\n%s", n, &table)
	}
}
