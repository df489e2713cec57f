package trial

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/probe"
	"espalier/xfrm"
)

// Each case is there once, and each that matters is.
func TestPlan(t *testing.T) {
	plan := Plan()
	seen := make(map[Case]bool)
	for _, c := range plan {
		if seen[c] {
			t.Errorf("%+v is there twice", c)
		}
		seen[c] = true
		if c.Dir == Out && c.Window != 0 || c.Dir == In && c.ESN && c.Window == 0 {
			t.Errorf("%+v makes no sense", c)
		}
	}
	if want := 2*2*3*2*2*2 + 2*(6+5); len(plan) != want {
		t.Errorf("%d cases, want %d", len(plan), want)
	}
	if first := plan[:2]; first[0].Dir != Out || first[1].Dir != In || !slices.ContainsFunc(first, decides.among) {
		t.Errorf("what decides does not come first: %+v", first)
	}
}

// What the kernel is asked for is what the case says.
func TestState(t *testing.T) {
	for _, c := range Plan() {
		s := c.sa(0xe0000001)
		x := c.state(s, 9, testIfindex)
		if got := (Case{
			Dir:     map[bool]string{false: Out, true: In}[x.Offload.Flags&xfrm.OffloadInbound != 0],
			Offload: map[bool]string{false: Crypto, true: Packet}[x.Offload.Flags&xfrm.OffloadPacket != 0],
			KeyBits: uint32(x.AEAD.Key.Len()-4) * 8, Mode: x.Mode.String(), ESN: x.Flags&xfrm.FlagESN != 0,
			Window: c.Window, Family: map[bool]string{false: IPv4, true: IPv6}[x.Src.Is6()],
		}); got != c {
			t.Errorf("%+v is asked for as %+v", c, got)
		}
		if c.Dir == In && x.ReplayWindow != c.Window || x.Dir != 0 || !s.is(x, 9) || s.is(x, 8) {
			t.Errorf("%+v: %+v", c, x)
		}
		for release, kernel := range map[string]xfrm.Release{"6.1": {Major: 6, Minor: 1}, "6.12": {Major: 6, Minor: 12}} {
			if bad := xfrm.Refusals(x, kernel); len(bad) > 0 && (release != "6.1" || c.Offload != Packet) {
				t.Errorf("Linux %s refuses %+v on principle: %v", release, c, bad)
			}
		}
	}
}

// Folding neither loses nor invents a case.
func TestFold(t *testing.T) {
	tables := map[string]struct {
		include func(Case) bool
		dims    []dimension
	}{
		"kinds":   {Case.usual, []dimension{offloads, keys, modes, esn, families, directions}},
		"windows": {Case.asksWindow, []dimension{offloads, esn, windows}},
	}
	for name, answer := range map[string]func(i int, c Case) Outcome{
		"all alike":  func(int, Case) Outcome { return Refused },
		"one in two": func(i int, _ Case) Outcome { return []Outcome{Offloaded, Software}[i%2] },
		"none alike": func(i int, c Case) Outcome { return Outcome(fmt.Sprint(i)) },
		"scattered":  func(i int, c Case) Outcome { return []Outcome{Offloaded, Refused}[i*i%7%2] },
		"as a ConnectX": func(_ int, c Case) Outcome {
			return map[bool]Outcome{true: Refused, false: Offloaded}[c.KeyBits == 192 || c.Offload == Packet]
		},
		"small windows": func(_ int, c Case) Outcome { return map[bool]Outcome{true: Refused, false: Offloaded}[c.Window > 256] },
		"no windows": func(_ int, c Case) Outcome {
			return map[bool]Outcome{true: Refused, false: Offloaded}[c.ESN && c.Window > 32]
		},
	} {
		for title, table := range tables {
			var cases []Tried
			for i, c := range Plan() {
				if table.include(c) {
					cases = append(cases, Tried{Case: c, Outcome: answer(i, c)})
				}
			}
			rows := fold(cases, table.dims)
			for _, c := range cases {
				var in []Outcome
				for _, r := range rows {
					held := true
					for i, d := range table.dims {
						held = held && slices.Contains(r.values[i], d.of(c.Case))
					}
					if held {
						in = append(in, r.Outcome)
					}
				}
				if len(in) != 1 || in[0] != c.Outcome {
					t.Fatalf("%s, %s: %+v stands in rows %v", title, name, c, in)
				}
			}
			t.Logf("%s, %s: %d rows", title, name, len(rows))
		}
	}
}

func TestText(t *testing.T) {
	const head = `
  AES-GCM with an ICV of 128 bits; receiving with a window of 64
`
	const windows = `
  windows of SAs that receive (AES-256, transport, IPv4)
`
	for _, tt := range []struct {
		name string
		nic  func(*xfrm.State) error
		want string
	}{
		{"offloads all", offloadsAll, `trial on p4p1: 118 kinds of SA: 118 offloaded
` + head + `    offload  AES  mode  ESN  IP   dir  answer
    any      any  any   any  any  any  offloaded
` + windows + `    offload  ESN  window  answer
    any      any  any     offloaded
`},
		{"as a ConnectX without packet offload", connectX, `trial on p4p1: 118 kinds of SA: 43 offloaded, 75 refused
` + head + `    offload  AES      mode  ESN  IP   dir  answer
    crypto   128 256  any   any  any  any  offloaded
    crypto   192      any   any  any  any  refused [1]
    packet   any      any   any  any  any  refused [2]
` + windows + `    offload  ESN  window  answer
    crypto   any  any     offloaded
    packet   any  any     refused [2]

  [1] EINVAL: mlx5_core: not with AES-192
  [2] EINVAL: mlx5_core: no packet offload
`},
		{"software", softwareOnly, `trial on p4p1: 118 kinds of SA: 118 software
` + head + `    offload  AES  mode  ESN  IP   dir  answer
    any      any  any   any  any  any  software
` + windows + `    offload  ESN  window  answer
    any      any  any     software
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var text strings.Builder
			r := mustRun(t, newSAD(tt.nic), options(t))
			if err := r.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			if got := text.String(); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			// The JSON is whole, and can be read again.
			b, err := json.Marshal(r)
			var again Result
			if err == nil {
				err = json.Unmarshal(b, &again)
			}
			if err != nil || !slices.Equal(again.Cases, r.Cases) {
				t.Errorf("%v: %s", err, b)
			}
		})
	}
}

func TestLayer(t *testing.T) {
	halves := func(dir string) func(*xfrm.State) error { // offloads one direction only
		return func(x *xfrm.State) error {
			if (x.Offload.Flags&xfrm.OffloadInbound != 0) != (dir == In) {
				x.Offload = nil
			}
			return nil
		}
	}
	for _, tt := range []struct {
		name    string
		driver  string
		nic     func(*xfrm.State) error
		answers []probe.Answer // crypto, ESN, IPv4, IPv6, tunnel, packet
		ready   probe.Readiness
		reason  string
	}{
		{"offloads all", "mlx5_core", offloadsAll, []probe.Answer{probe.Yes, probe.Yes, probe.Yes, probe.Yes, probe.Yes, probe.Yes}, probe.Ready, ""},
		{"as a ConnectX", "mlx5_core", connectX, []probe.Answer{probe.Yes, probe.Yes, probe.Yes, probe.Yes, probe.Yes, probe.No}, probe.Ready, ""},
		{"software", "", softwareOnly, []probe.Answer{probe.No}, probe.NotReady, "SAs are accepted, and left to software"},
		{"sends only", "", halves(Out), []probe.Answer{probe.No}, probe.NotReady, "SAs are accepted, and left to software"},
		{"receives only", "", halves(In), []probe.Answer{probe.No}, probe.NotReady, "SAs are accepted, and left to software"},
		{"simulated", "netdevsim", offloadsAll, make([]probe.Answer, 1), probe.Unclear, "netdevsim takes SAs for offload, but it is a simulation and encrypts nothing"},
		{"AES-128 without ESN only", "", func(x *xfrm.State) error {
			if x.AEAD.Key.Len() != 20 || x.Flags&xfrm.FlagESN != 0 {
				return refusal(unix.EINVAL, "no")
			}
			return connectX(x)
		}, []probe.Answer{probe.Yes, probe.No, probe.Yes, probe.Yes, probe.Yes, probe.No}, probe.Ready, ""},
		{"without esp4_offload", "", func(x *xfrm.State) error {
			if x.Dst.Is4() {
				return refusal(unix.EINVAL, "Type doesn't support offload")
			}
			return connectX(x)
		}, []probe.Answer{probe.Yes, probe.Yes, probe.No, probe.Yes, probe.Yes, probe.No}, probe.Ready, ""},
		{"another device takes it", "", func(x *xfrm.State) error { x.Offload.Ifindex++; return nil },
			[]probe.Answer{probe.No}, probe.NotReady, "SAs are offloaded otherwise than asked: it is offloaded to the device with index 8"},
		{"no ESP in the kernel", "", func(*xfrm.State) error { return refusal(unix.ENOSYS, "Requested AEAD algorithm not found") },
			[]probe.Answer{probe.No}, probe.NotReady, "SAs are refused: ENOSYS: Requested AEAD algorithm not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t)
			o.Driver = tt.driver
			layer := mustRun(t, newSAD(tt.nic), o).Layer()
			var answers []probe.Answer
			for _, c := range layer.Checks {
				answers = append(answers, c.Answer)
				if said := "Type doesn't support offload"; strings.Contains(c.Why, said) != strings.Contains(c.Fix, "esp4_offload") {
					t.Errorf("%+v", c)
				}
				if c.Why == "" || len(c.Evidence) == 0 {
					t.Errorf("%+v", c)
				}
			}
			if !slices.Equal(answers, tt.answers) {
				t.Errorf("answers %v, want %v", answers, tt.answers)
			}
			// Whatever was not known before.
			unknown := probe.Layer{Checks: []probe.Check{{Weight: probe.Required, Why: "unreadable"}}}
			ready, reason := probe.Judge([]probe.Layer{unknown, layer})
			if tt.ready == probe.Unclear {
				ready, reason = probe.Judge([]probe.Layer{layer})
			}
			if ready != tt.ready || reason != tt.reason {
				t.Errorf("%s (%s), want %s (%s)", ready, reason, tt.ready, tt.reason)
			}
		})
	}
}

// Of a trial that was not made nothing is known.
func TestFailed(t *testing.T) {
	if ready, reason := probe.Judge([]probe.Layer{Failed(errBoom)}); ready != probe.Unclear || reason != "not found out: boom" {
		t.Errorf("%s (%s)", ready, reason)
	}
}
