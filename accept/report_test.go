package accept

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"espalier/probe"
	"espalier/remote"
)

// fakeHost has a connection to this process, by another name.
func fakeHost(t *testing.T, name, label, address string, more ...string) *Host {
	t.Helper()
	c := remote.Local(name, nil)
	t.Cleanup(func() { c.Close() })
	h := &Host{Conn: c, Device: "p4p1", Address: netip.MustParseAddr(address), label: label}
	h.link = Link{Name: "p4p1", Driver: "mlx5_core"}
	h.doctor = probe.Report{Host: name + ".example.org", Kernel: "6.12", Readiness: probe.Ready}
	for _, m := range more {
		h.links = append(h.links, Link{Name: "eno1", Addresses: []netip.Prefix{netip.MustParsePrefix(m)}})
	}
	return h
}

// TestRedacted: neither names nor addresses get into a report, and what only looks like them stays.
func TestRedacted(t *testing.T) {
	a := fakeHost(t, "root@db", "A", "192.0.2.6", "192.0.2.6/24", "2001:db8::6/64")
	b := fakeHost(t, "db2", "B", "192.0.2.65", "192.0.2.65/24", "10.1.2.3/8")
	r := Report{Schema: Schema, Started: time.Unix(0, 0), Steps: []StepReport{{
		Name: "traffic", Result: Failed, Error: "dial tcp 192.0.2.6->192.0.2.65:5201: no route to db2",
		Facts:    []string{"2001:db8::6 and 10.1.2.3 of db2.example.org at 52:54:00:12:34:56", "dbus, db20, 192.0.2.650 and 6.12 are no names"},
		Verdicts: []Judged{{Host: "A", SAs: []JudgedSA{{SPI: "0x1", Verdict: "HARDWARE", Why: "root@db says so"}}, Drops: []string{"from 192.0.2.65"}}},
		mu:       new(sync.Mutex),
	}}}
	r.conclude([]*Host{a, b})
	if r.OK || r.Verdict != "A: HARDWARE, B: UNKNOWN" {
		t.Errorf("%v %q", r.OK, r.Verdict)
	}
	var text bytes.Buffer
	if err := r.WriteMarkdown(&text); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"root@db", "db2 ", "db2.", "192.0.2.6 ", "192.0.2.6-", "192.0.2.65:", "192.0.2.65\"", "2001:db8", "10.1.2.3", "52:54:00", "example.org"} {
		if strings.Contains(text.String(), secret) {
			t.Errorf("%q is in the report:\n%s", secret, &text)
		}
	}
	for _, word := range []string{"dial tcp [A]->[B]:5201: no route to [host B]", "dbus, db20, 192.0.2.650 and 6.12 are no names", "[MAC]", "p4p1", "mlx5_core"} {
		if !strings.Contains(text.String(), word) {
			t.Errorf("%q is not in the report:\n%s", word, &text)
		}
	}
	_, after, _ := strings.Cut(text.String(), "```json\n")
	var again Report
	if err := json.Unmarshal([]byte(strings.TrimSuffix(after, "\n```\n")), &again); err != nil || again.Verdict != r.Verdict {
		t.Errorf("%v\n%s", err, after)
	}
}

func TestChoose(t *testing.T) {
	link := func(name, driver string, management bool, addresses ...string) Link {
		l := Link{Name: name, Driver: driver, Up: true, Management: management}
		for _, a := range addresses {
			l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
		}
		return l
	}
	for _, c := range []struct {
		name     string
		a, b     []Link
		wanted   [4]string // device, address of A; of B
		expected string    // "A's device, A's address, B's device, B's address", or an error
	}{
		{"the only one", []Link{link("p4p1", "", false, "192.168.1.64/24")}, []Link{link("enp4s0", "", false, "192.168.1.65/24", "10.0.0.1/8")}, [4]string{},
			"p4p1 192.168.1.64 enp4s0 192.168.1.65"},
		{"not the management's", []Link{link("eno1", "igb", true, "10.0.0.1/8"), link("p4p1", "mlx5_core", false, "192.168.1.64/24")},
			[]Link{link("eno1", "igb", true, "10.0.0.2/8"), link("p4p1", "mlx5_core", false, "192.168.1.65/24")}, [4]string{}, "p4p1 192.168.1.64 p4p1 192.168.1.65"},
		{"hardware first", []Link{link("br0", "", false, "10.0.0.1/8"), link("p4p1", "mlx5_core", false, "192.168.1.64/24")},
			[]Link{link("br0", "", false, "10.0.0.2/8"), link("p4p1", "mlx5_core", false, "192.168.1.65/24")}, [4]string{}, "p4p1 192.168.1.64 p4p1 192.168.1.65"},
		{"the one named", []Link{link("eno1", "igb", true, "10.0.0.1/8"), link("p4p1", "mlx5_core", false, "192.168.1.64/24")},
			[]Link{link("eno1", "igb", true, "10.0.0.2/8"), link("p4p1", "mlx5_core", false, "192.168.1.65/24")}, [4]string{"eno1"}, "eno1 10.0.0.1 eno1 10.0.0.2"},
		{"over a router", []Link{link("p4p1", "", false, "192.168.1.64/24")}, []Link{link("p4p1", "", false, "192.168.2.65/24")},
			[4]string{"", "192.168.1.64", "", "192.168.2.65"}, "p4p1 192.168.1.64 p4p1 192.168.2.65"},
		{"several", []Link{link("p4p1", "", false, "192.168.1.64/24", "10.0.0.1/8")}, []Link{link("p4p1", "", false, "192.168.1.65/24", "10.0.0.2/8")}, [4]string{}, "2 pairs"},
		{"none", []Link{link("p4p1", "", false, "192.168.1.64/24")}, []Link{link("p4p1", "", false, "192.168.2.65/24")}, [4]string{}, "no IPv4 network joins"},
		{"an address nobody has", []Link{link("p4p1", "", false, "192.168.1.64/24")}, []Link{link("p4p1", "", false, "192.168.1.65/24")},
			[4]string{"", "192.168.1.66", "", "192.168.1.65"}, "no IPv4 network joins"},
		{"a link that is down", []Link{{Name: "p4p1", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.1.64/24")}}},
			[]Link{link("p4p1", "", false, "192.168.1.65/24")}, [4]string{}, "no IPv4 network joins"},
	} {
		a, b := fakeHost(t, "db1", "A", "192.0.2.1"), fakeHost(t, "db2", "B", "192.0.2.2")
		for i, h := range []*Host{a, b} {
			h.links, h.Device, h.Address = [][]Link{c.a, c.b}[i], c.wanted[2*i], netip.Addr{}
			if text := c.wanted[2*i+1]; text != "" {
				h.Address = netip.MustParseAddr(text)
			}
		}
		r := &run{Options: Options{A: a, B: b}}
		got := ""
		if err := r.choose(); err != nil {
			got = err.Error()
		} else {
			got = strings.Join([]string{a.Device, a.Address.String(), b.Device, b.Address.String()}, " ")
		}
		if !strings.HasPrefix(got, c.expected) {
			t.Errorf("%s: %s; want %s", c.name, got, c.expected)
		}
	}
}

func TestBetween(t *testing.T) {
	r := &run{Options: Options{A: fakeHost(t, "db1", "A", "192.0.2.1"), B: fakeHost(t, "db2", "B", "192.0.2.2")}}
	for pair, want := range map[[2]string]bool{
		{"192.0.2.1", "192.0.2.2"}: true, {"192.0.2.2/32", "192.0.2.1/32"}: true, {"192.0.2.0/24", "0.0.0.0/0"}: true, {"", ""}: true,
		{"192.0.2.1", "192.0.2.3"}: false, {"192.0.2.1/32", "192.0.2.1/32"}: false, {"::/0", "::/0"}: false,
	} {
		if got := r.between(pair[0], pair[1]); got != want {
			t.Errorf("%v: %v", pair, got)
		}
	}
}

func TestParseIperf(t *testing.T) {
	failed := errors.New("exit status 1")
	for _, c := range []struct {
		out   string
		err   error
		bytes int64
		words string
	}{
		{`{"end":{"sum_sent":{"bytes":9},"sum_received":{"seconds":2.0,"bytes":500000000,"bits_per_second":2e9}}}`, nil, 500000000, ""},
		{`{"error":"unable to connect to server: Connection refused"}`, failed, 0, "Connection refused"},
		{`{"end":{}}`, nil, 0, "nothing arrived"},
		{``, failed, 0, "exit status 1"},
		{`{"end":{"sum_received":{"seconds":2.0,"bytes":1}}}`, failed, 0, "exit status 1"},
	} {
		got, err := parseIperf([]byte(c.out), c.err)
		if c.words != "" {
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%s: %v", c.out, err)
			}
		} else if err != nil || got.Bytes != c.bytes || got.Gbit() != 2 {
			t.Errorf("%s: %+v %v", c.out, got, err)
		}
	}
}
