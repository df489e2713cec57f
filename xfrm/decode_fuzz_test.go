package xfrm

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/mdlayher/netlink"
)

// again checks that what b decodes to, if anything, survives another round.
func again[V any](t *testing.T, name string, b []byte, dec func([]byte) (V, error), enc func(V) ([]byte, error)) {
	t.Helper()
	v, err := dec(b)
	if err != nil {
		return
	}
	b2, err := enc(v)
	if err != nil {
		t.Fatalf("%s: %x decodes to %+v, which does not encode: %v", name, b, v, err)
	}
	v2, err := dec(b2)
	if err != nil {
		t.Fatalf("%s: %x, encoded as %x, does not decode: %v", name, b, b2, err)
	}
	if !reflect.DeepEqual(v, v2) {
		t.Fatalf("%s: %x\n decodes to %+v\n and then to %+v", name, b, v, v2)
	}
}

// FuzzDecode feeds one payload to every decoder.
func FuzzDecode(f *testing.F) {
	for _, g := range readGolden(f) {
		f.Add(g.payload)
	}
	for _, s := range goldenStates(f) {
		s.Dir, s.LastUsed = StateDirOut, 7
		b, err := EncodeStateDeleted(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, p := range goldenPolicies() {
		b, err := EncodePolicyDeleted(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, b := range eventPayloads(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, "state", bytes.Clone(b), func(b []byte) (*State, error) {
			s, err := DecodeState(bytes.Clone(b))
			if err == nil {
				s.Other = nil // known not to be encoded
			}
			return s, err
		}, EncodeState)
		again(t, "policy", bytes.Clone(b), func(b []byte) (*Policy, error) {
			p, err := DecodePolicy(b)
			if err == nil {
				p.Other = nil
			}
			return p, err
		}, EncodePolicy)
		again(t, "state id", bytes.Clone(b), DecodeStateID, func(id StateID) ([]byte, error) { return EncodeStateID(&id) })
		again(t, "policy id", bytes.Clone(b), DecodePolicyID, func(id PolicyID) ([]byte, error) { return EncodePolicyID(&id) })
		again(t, "filter", bytes.Clone(b), DecodeStateFilter, func(f StateFilter) ([]byte, error) { return EncodeStateFilter(&f) })
		again(t, "flush states", bytes.Clone(b), DecodeFlushStates, func(p uint8) ([]byte, error) { return EncodeFlushStates(p), nil })
		again(t, "flush policies", bytes.Clone(b), DecodeFlushPolicies, EncodeFlushPolicies)
		again(t, "SAD info", bytes.Clone(b), DecodeSADInfo, EncodeSADInfo)
		again(t, "SPD info", bytes.Clone(b), DecodeSPDInfo, EncodeSPDInfo)
		again(t, "SPI range", bytes.Clone(b), func(b []byte) (*SPIRange, error) {
			r, err := DecodeSPIRange(b)
			if err == nil {
				r.State = spiRangeState(r.State)
			}
			return r, err
		}, EncodeSPIRange)
		again(t, "acquire", bytes.Clone(b), func(b []byte) (*Acquire, error) {
			a, err := DecodeAcquire(b)
			if err == nil {
				a.Policy.Other = nil
			}
			return a, err
		}, EncodeAcquire)
		again(t, "aevent", bytes.Clone(b), DecodeAEvent, EncodeAEvent)
		again(t, "mapping", bytes.Clone(b), DecodeMapping, EncodeMapping)
		again(t, "migration", bytes.Clone(b), DecodeMigration, EncodeMigration)
		again(t, "defaults", bytes.Clone(b), DecodeDefaults, func(d *Defaults) ([]byte, error) { return EncodeDefaults(*d), nil })
		for typ := MsgNewSA; typ <= MsgGetDefault+1; typ++ {
			DecodeEvent(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ)}, Data: bytes.Clone(b)})
		}
		for m, err := range Messages(bytes.Clone(b)) {
			if err == nil {
				DecodeEvent(m)
			}
		}
		// What decodes as a state and is an SA for ipsec comes back the same.
		if s, err := DecodeState(bytes.Clone(b)); err == nil {
			if sa, err := s.SA(); err == nil {
				if back, err := StateFromSA(&sa); err == nil && sa.Key.Len() > 0 {
					if sa2, err := back.SA(); err != nil || !reflect.DeepEqual(sa, sa2) {
						t.Fatalf("%+v\n becomes %+v, %v", sa, sa2, err)
					}
				}
			}
		}
	})
}

// spiRangeState keeps of a state what ALLOCSPI says.
func spiRangeState(s *State) *State {
	return &State{
		Src: s.Src, Dst: s.Dst, Proto: s.Proto, SPI: s.SPI, Mode: s.Mode, Reqid: s.Reqid, Seq: s.Seq, Sel: s.Sel,
		Limits: s.Limits, Current: s.Current, Stats: s.Stats, ReplayWindow: min(s.ReplayWindow, 32),
		Mark: s.Mark, IfID: s.IfID, Dir: s.Dir, PCPU: s.PCPU,
	}
}
