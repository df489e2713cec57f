package guest

import (
	"context"
	"testing"

	"espalier/test/lab"
	"espalier/verdict"
	"espalier/verdict/observe"
)

// observer watches a host's kernel and its NIC.
func (l *nicLab) observer(t *testing.T, h *lab.Host) *observe.Observer {
	t.Helper()
	var o *observe.Observer
	inside(t, h, func() (err error) {
		o, err = observe.Open(l.kernel[h], false)
		return err
	})
	t.Cleanup(o.Close)
	return o
}

// The kernel's own ESP is seen at work: where the NIC's counters stand still, that tells who
// encrypted. Without it nobody knows, for a NIC that lies has the same counters.
func TestNICObserved(t *testing.T) {
	l := newNICLab(t, "p4p1")
	p := lab.Pair{}
	l.program(t, p)
	plain, watching := l.observer(t, l.A), l.observer(t, l.A)
	if err := watching.CountCPU(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name           string
		ping           []string
		fault          string
		plain, watched verdict.Reason
	}{
		{"an ordinary packet", nil, "none", verdict.Balanced, verdict.Balanced},
		{"IPv4 options", []string{"-R"}, "none", verdict.StoodStill, verdict.KernelESP},
		{"a NIC that lies", nil, "lying", verdict.StoodStill, verdict.Nobody},
		{"a NIC that forges", nil, "forging", verdict.Balanced, verdict.Balanced},
		{"an ordinary packet again", nil, "none", verdict.Balanced, verdict.Balanced},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setParameter(t, "fault", tt.fault)
			for o, want := range map[*observe.Observer]verdict.Reason{plain: tt.plain, watching: tt.watched} {
				seen, err := o.During(context.Background(), func(context.Context) error {
					if !l.A.Ping(lab.B4, 5, tt.ping...) {
						t.Error("ping failed")
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				if len(seen.Judgements) != 2 {
					t.Fatalf("%d SAs", len(seen.Judgements))
				}
				for i, j := range seen.Judgements {
					if j.Reason != want {
						t.Errorf("%s: %s, %s: %s; want %s\n%+v", seen.Evidence.SAs[i].Direction, j.Verdict, j.Reason, j.Why, want, seen.Evidence)
					}
				}
			}
		})
	}
}
