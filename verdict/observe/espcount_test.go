package observe

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

// The kernel takes the program: all that can be tried where it has no kprobes, or no ESP.
func TestLoadProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c := new(espCount)
	defer c.close()
	_, err := c.load()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if calls := c.read(); calls == nil || len(calls) != 0 {
		t.Errorf("a new count has %v", calls)
	}
	c.reset()
}

// The license that the program says is needed: of its helpers one is for no other. Were it not, it should go.
func TestProgramLicense(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c := new(espCount)
	defer c.close()
	if _, err := c.load(); err != nil {
		t.Skip(err)
	}
	if _, err := c.loadAs("Apache-2.0", c.addOne(firstArgument[runtime.GOARCH], encrypts)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("under another license: %v", err)
	}
	nothing := []instruction{{0xb7, 0, 0, 0, 0}, {0x95, 0, 0, 0, 0}} // r0 = 0, exit
	if _, err := c.loadAs("Apache-2.0", nothing); err != nil {
		t.Errorf("a program without such helpers: %v", err)
	}
}

// Functions that are not there are not called, but only as long as their module is not loaded.
func TestFunctionNotThere(t *testing.T) {
	c := &espCount{modules: t.TempDir()}
	if err := c.notThere("esp_input"); err != nil || len(c.absent) != 1 || c.absent[0] != "esp4" {
		t.Errorf("%v %v", err, c.absent)
	}
	if err := c.notThere("esp6_input"); err != nil || c.absent[1] != "esp6" || slices.ContainsFunc(c.absent, c.loaded) {
		t.Errorf("%v %v", err, c.absent)
	}
	if err := os.Mkdir(c.modules+"/esp6", 0o700); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(c.absent, c.loaded) || c.read() != nil {
		t.Error("a module that was loaded later is taken for one that does nothing")
	}
	if err := c.notThere("esp6_output_tail"); err == nil {
		t.Error("a function under another name is taken for one that is not called")
	}
}

// A state is known by what stands side by side in it, wherever that is.
func TestCallsOfStates(t *testing.T) {
	v4 := &xfrm.State{Dst: netip.MustParseAddr("192.168.1.65"), SPI: 0x28f39549, Proto: 50}
	v6 := &xfrm.State{Dst: netip.MustParseAddr("fd00::65"), SPI: 0x28f39549, Proto: 50}
	ids := map[xfrmID]bool{xfrmIDOf(v4): true, xfrmIDOf(v6): true}
	head := func(s *xfrm.State, at int) []byte {
		b := make([]byte, headSize)
		for i := range b {
			b[i] = byte(i)
		}
		id := xfrmIDOf(s)
		copy(b[at:], id[:])
		return b
	}
	stranger := &xfrm.State{Dst: v4.Dst, SPI: 0x28f39548, Proto: 50}
	const ours, theirs = 0xffff888012340000, 0xffff888056780000
	in := func(net uint64, head []byte) []byte { binary.NativeEndian.PutUint64(head, net); return head }
	calls := espCalls{
		0x1000: {3, in(ours, head(v4, 88))}, 0x2000: {4, in(ours, head(v4, 120))}, // and its successor
		0x3000: {5, in(ours, head(v6, headSize-24))}, 0x4000: {6, in(ours, head(stranger, 88))}, 0x5000: {7, nil},
		0x6000 + decrypts: {10, in(theirs, head(v4, 88))}, // the other end of it, on the same machine
		0x7000:            {20, in(theirs, head(v6, 88))}, // another one by the same name
	}
	sending := func(s *xfrm.State) callID { return callID{xfrmIDOf(s), encrypts} }
	got, unknown := calls.of(ids, ours)
	if len(got) != 2 || got[sending(v4)] != 7 || got[sending(v6)] != 5 || len(unknown) != 0 {
		t.Errorf("%v %v", got, unknown)
	}
	// Without knowing which namespace is ours: the end of it is told by its direction, the other one is not.
	got, unknown = calls.of(ids, 0)
	if got[sending(v4)] != 7 || got[callID{xfrmIDOf(v4), decrypts}] != 10 || unknown[sending(v4)] || !unknown[sending(v6)] {
		t.Errorf("%v %v", got, unknown)
	}
	for f, kind := range map[string]int{"esp_output_tail": encrypts, "esp6_output_tail": encrypts, "esp_input": decrypts, "esp6_input": decrypts, sadInfo: namesNet} {
		if kindOf(f) != kind {
			t.Errorf("%s is of kind %d", f, kindOf(f))
		}
	}
	var none *espCount
	if none.read() != nil {
		t.Error("nobody has counted")
	}
}
