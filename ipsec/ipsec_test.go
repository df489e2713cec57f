package ipsec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestKeyNeverPrints(t *testing.T) {
	secret := []byte("0123456789abcdefghijklmnopqrstuvwxyz")
	sa := SA{Key: NewKey(secret)}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%p"} {
		fmt.Fprintf(&out, verb+"\n", sa.Key)
		fmt.Fprintf(&out, verb+"\n", struct{ hidden Key }{sa.Key})
		fmt.Fprintf(&out, verb+"\n", sa)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "key", sa.Key, "sa", sa)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", sa.Key, "sa", sa)
	if err := json.NewEncoder(&out).Encode(sa); err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(secret[:8]), fmt.Sprintf("%x", secret[:4]), fmt.Sprintf("%X", secret[8:12]), fmt.Sprint(secret[:3])[1:9], "0x30, 0x31"} {
		if strings.Contains(out.String(), form) {
			i := strings.Index(out.String(), form)
			t.Errorf("%q leaked in …%s…", form, out.String()[max(0, i-60):i+20])
		}
	}
}

func TestKeyWipe(t *testing.T) {
	k := NewKey([]byte{1, 2, 3})
	same := k
	k.Wipe()
	if !bytes.Equal(same.ExposeSecretBytes(), []byte{0, 0, 0}) || same.Len() != 3 {
		t.Error("key bytes left")
	}
}

func TestSelectorMatch(t *testing.T) {
	p := netip.MustParsePrefix
	web := Selector{Src: p("192.0.2.0/24"), Dst: p("198.51.100.1/32"), Protocol: 6, DstPort: Port(443)}
	flow := Flow{Src: netip.MustParseAddr("192.0.2.9"), Dst: netip.MustParseAddr("198.51.100.1"), Protocol: 6, SrcPort: 5000, DstPort: 443}
	change := func(f func(*Flow)) Flow { g := flow; f(&g); return g }
	for _, c := range []struct {
		name string
		sel  Selector
		flow Flow
		want bool
	}{
		{"exact", web, flow, true},
		{"zero selector", Selector{}, flow, true},
		{"source outside", web, change(func(f *Flow) { f.Src = netip.MustParseAddr("192.0.3.9") }), false},
		{"destination outside", web, change(func(f *Flow) { f.Dst = netip.MustParseAddr("198.51.100.2") }), false},
		{"other family", web, change(func(f *Flow) { f.Src = netip.MustParseAddr("2001:db8::1") }), false},
		{"other protocol", web, change(func(f *Flow) { f.Protocol = 17 }), false},
		{"other port", web, change(func(f *Flow) { f.DstPort = 80 }), false},
		{"later fragment counts", web, change(func(f *Flow) { f.DstPort = 0; f.NoPorts = true }), true},
		{"later fragment of another protocol", web, change(func(f *Flow) { f.NoPorts = true; f.Protocol = 17 }), false},
		{"masked port", Selector{DstPort: PortMatch{Value: 0x0100, Mask: 0xff00}}, change(func(f *Flow) { f.DstPort = 0x01bb }), true},
		{"masked port outside", Selector{DstPort: PortMatch{Value: 0x0100, Mask: 0xff00}}, change(func(f *Flow) { f.DstPort = 0x02bb }), false},
	} {
		if got := c.sel.Match(&c.flow); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
