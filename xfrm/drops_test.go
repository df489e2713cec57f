package xfrm

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"espalier/ipsec"
)

func TestDropsRoundTrip(t *testing.T) {
	want := []ipsec.DropCount{
		{Reason: "in-replay", Counter: "XfrmInStateSeqError", Meaning: "sequence number seen before", Packets: 1 << 40},
		{Reason: "in-not-esp"},
	}
	b, err := EncodeDrops(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeDrops(b)
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
}

func FuzzDecodeDrops(f *testing.F) {
	b, _ := EncodeDrops([]ipsec.DropCount{{Reason: "a", Counter: "b", Meaning: "c", Packets: 1}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		drops, err := DecodeDrops(b)
		if err != nil {
			return
		}
		if _, err := EncodeDrops(drops); err != nil {
			t.Fatal(err)
		}
	})
}
