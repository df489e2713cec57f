package xfrm

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
)

const policyLine = "policy add src 10.0.0.1 dst 11.0.0.1 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 17 mode tunnel"

const stateLine = "state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 reqid 17 mode transport " +
	"replay-window 64 flag esn aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128 sel src 192.0.2.1 dst 192.0.2.2"

func BenchmarkParse(b *testing.B) {
	for name, line := range map[string]string{"policy": policyLine, "state": stateLine} {
		words := strings.Fields(line)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(words, Env{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLines is of one line of a long script.
func BenchmarkLines(b *testing.B) {
	const lines = 1000
	script := strings.Repeat("xfrm "+policyLine+"\n", lines)
	b.ReportAllocs()
	for range b.N/lines + 1 {
		for _, err := range Lines(strings.NewReader(script)) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkEncodePolicy(b *testing.B) {
	p := parsedPolicy(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := EncodePolicy(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodePolicy(b *testing.B) {
	payload, err := EncodePolicy(parsedPolicy(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodePolicy(payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeState(b *testing.B) {
	s := &State{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Proto: 50, SPI: 0x1000,
		ReplayWindow: 64, Dir: StateDirIn, Offload: &Offload{Ifindex: 2, Flags: OffloadInbound}, Limits: NoLimits,
		AEAD: &AEAD{Name: AEADName, KeyBits: 160, ICVBits: 128}, Replay: &ReplayState{Seq: 7, Bitmap: []uint32{1, 0}}}
	payload, err := EncodeState(s)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeState(payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFprintPolicy(b *testing.B) {
	p := parsedPolicy(b)
	for _, opt := range []PrintOptions{{}, {Stats: true}} {
		b.Run(fmt.Sprintf("stats=%v", opt.Stats), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				FprintPolicy(io.Discard, p, opt)
			}
		})
	}
}

func parsedPolicy(b *testing.B) *Policy {
	b.Helper()
	cmd, err := Parse(strings.Fields(policyLine), Env{})
	if err != nil {
		b.Fatal(err)
	}
	return cmd.Policy
}
