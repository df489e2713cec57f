package esp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"espalier/aesgcm"
	"espalier/ipsec"
)

func TestNewValidates(t *testing.T) {
	const both, outOnly, inOnly = 3, 1, 2
	keyOf := func(n int) func(*ipsec.SA) {
		return func(sa *ipsec.SA) { sa.Key = ipsec.NewKey(bytes.Repeat([]byte("Kq"), 40)[:n]) }
	}
	for _, c := range []struct {
		name    string
		change  func(*ipsec.SA)
		refuses int // which constructors
		want    error
		says    string
	}{
		{"as it is", func(*ipsec.SA) {}, 0, nil, ""},
		{"AES-192", keyOf(28), 0, nil, ""},
		{"AES-256", keyOf(36), 0, nil, ""},
		{"no key", keyOf(0), both, ipsec.ErrInvalid, "0 bytes"},
		{"key without salt", keyOf(16), both, ipsec.ErrInvalid, "16 bytes"},
		{"long key", keyOf(37), both, ipsec.ErrInvalid, "37 bytes"},
		{"ICV 96", withICV(96), 0, nil, ""},
		{"ICV 64", withICV(64), 0, nil, ""},
		{"ICV 104", withICV(104), both, ipsec.ErrInvalid, "104"},
		{"ICV 0", withICV(0), both, ipsec.ErrInvalid, "64, 96 and 128"},
		{"ICV -128", withICV(-128), both, ipsec.ErrInvalid, "-128"},
		{"window 0", withWindow(0), 0, nil, ""},
		{"window 31", withWindow(31), both, ipsec.ErrInvalid, "31"},
		{"window 4096", withWindow(4096), 0, nil, ""},
		{"window 4097", withWindow(4097), both, ipsec.ErrInvalid, "4097"},
		{"ESN", withESN, 0, nil, ""},
		{"ESN without window", func(sa *ipsec.SA) { sa.ESN, sa.Window = true, 0 }, inOnly, ipsec.ErrInvalid, "need a window"},
		{"SPI 0", func(sa *ipsec.SA) { sa.SPI = 0 }, both, ipsec.ErrInvalid, "reserved"},
		{"SPI 255", func(sa *ipsec.SA) { sa.SPI = 255 }, both, ipsec.ErrInvalid, "reserved"},
		{"SPI 256", func(sa *ipsec.SA) { sa.SPI = 256 }, 0, nil, ""},
		{"inbound only", func(sa *ipsec.SA) { sa.Direction = ipsec.Inbound }, outOnly, ipsec.ErrInvalid, "direction in"},
		{"outbound only", func(sa *ipsec.SA) { sa.Direction = ipsec.Outbound }, inOnly, ipsec.ErrInvalid, "direction out"},
		{"forward", func(sa *ipsec.SA) { sa.Direction = ipsec.Forward }, both, ipsec.ErrInvalid, "direction fwd"},
		{"mode 2", func(sa *ipsec.SA) { sa.Mode = 2 }, both, ipsec.ErrInvalid, "mode"},
		{"sent beyond 32 bits", func(sa *ipsec.SA) { sa.Counters.Sent = cycle }, outOnly, ipsec.ErrInvalid, "4294967296"},
		{"received beyond 32 bits", func(sa *ipsec.SA) { sa.Counters.Received = cycle }, inOnly, ipsec.ErrInvalid, "4294967296"},
		{"bitmap too short", func(sa *ipsec.SA) { sa.Counters.Bitmap = []uint32{1} }, inOnly, ipsec.ErrInvalid, "1 words"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sa := testSA(c.change)
			_, outErr := NewOutbound(sa)
			_, inErr := NewInbound(sa)
			for _, got := range []struct {
				err     error
				refuses bool
			}{{outErr, c.refuses&outOnly != 0}, {inErr, c.refuses&inOnly != 0}} {
				if (got.err != nil) != got.refuses {
					t.Errorf("error %v", got.err)
				}
				if got.err == nil {
					continue
				}
				if !errors.Is(got.err, c.want) || !strings.Contains(got.err.Error(), c.says) {
					t.Errorf("%q: want %v and %q", got.err, c.want, c.says)
				}
				if !strings.Contains(got.err.Error(), sa.ID().String()) {
					t.Errorf("%q does not name the SA", got.err)
				}
				noSecrets(t, sa, got.err)
			}
		})
	}
}

// noSecrets looks for any four bytes of the key or salt in an error, as text and as hex.
func noSecrets(t *testing.T, sa *ipsec.SA, err error) {
	t.Helper()
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	key := sa.Key.ExposeSecretBytes()
	for i := 0; i+4 <= len(key); i++ {
		for _, s := range []string{string(key[i : i+4]), hex.EncodeToString(key[i : i+4])} {
			if strings.Contains(text, s) {
				t.Fatalf("%q carries key material", text)
			}
		}
	}
}

func TestUnknownImplementation(t *testing.T) {
	t.Setenv(aesgcm.EnvImplementation, "rot13")
	if _, err := NewOutbound(testSA()); !errors.Is(err, ipsec.ErrUnsupported) {
		t.Error(err)
	}
}

// The caller may wipe its own copy of the key as soon as the SA is built.
func TestKeyIsCopied(t *testing.T) {
	sa := testSA()
	o, in := newOutbound(t, sa), newInbound(t, sa)
	sa.Key.Wipe()
	p := openOne(newInbound(t, testSA()), send(t, o, protoTCP, pattern(20))[0])
	if p.Err != nil {
		t.Error("outbound:", p.Err)
	}
	if p = openOne(in, send(t, newOutbound(t, testSA()), protoTCP, pattern(20))[0]); p.Err != nil {
		t.Error("inbound:", p.Err)
	}
}
