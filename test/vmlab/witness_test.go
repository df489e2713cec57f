package vmlab

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"espalier/test/lab"
	"espalier/test/tshark"
	"espalier/test/vmlab/guest"
	"espalier/xfrm"
)

// judge has tshark decrypt what the lab's NIC has put on its cable: all of it, with good ICVs,
// and nothing but the pings and the TCP that were sent. Under a wrong key there is none of it.
func judge(t *testing.T, files map[string][]byte) {
	lab.Tools(t, "tshark")
	for _, r := range guest.Recordings {
		t.Run(r.Name, func(t *testing.T) {
			capture := filepath.Join(t.TempDir(), "wire.pcap")
			if err := os.WriteFile(capture, files[r.File()], 0o600); err != nil {
				t.Fatal(err)
			}
			sas := sasOf(t, r)
			esn := r.Pair != nil && r.ESN
			all, esp := tshark.Tally(tshark.Read(t, capture, tshark.Keys(esn, sas[:]...)))
			if len(all) != len(sas) {
				t.Errorf("ESP under %d SPIs, want %d", len(all), len(sas))
			}
			for i := range sas {
				checkSeen(t, r, sas, i, all[sas[i].SPI])
			}
			t.Logf("%d ESP packets", esp)

			right := sas[0]
			sas[0] = tshark.Spoil(right)
			all, _ = tshark.Tally(tshark.Read(t, capture, tshark.Keys(esn, sas[:]...)))
			checkSeen(t, r, sas, 1, all[sas[1].SPI])
			if s := all[right.SPI]; s == nil || s.Good != 0 || s.Echoes[echo(r, 0)] != 0 || s.TCP >= guest.RecordedBytes {
				t.Errorf("SPI %#x under a wrong key: %+v", right.SPI, s)
			}
		})
	}
}

// checkSeen compares what tshark saw of one of the SAs with what was sent.
func checkSeen(t *testing.T, r guest.Recording, sas [2]lab.SA, i int, s *tshark.Seen) {
	t.Helper()
	if s == nil {
		t.Fatalf("SPI %#x: nothing", sas[i].SPI)
	}
	// tshark 4.0 leaves the upper half of the numbers out of the ICV and calls each one bad.
	if esn := r.Pair != nil && r.ESN; !esn && (s.Good != s.Frames || s.Bad != 0) {
		t.Errorf("SPI %#x: of %d ICVs tshark calls %d good, %d bad", sas[i].SPI, s.Frames, s.Good, s.Bad)
	}
	request, reply := echo(r, i), echo(r, 1-i)
	reply[0] = map[int]int{8: 0, 128: 129}[request[0]]
	if s.Echoes[request] != guest.RecordedPings || s.Echoes[reply] != guest.RecordedPings || len(s.Echoes) != 2 {
		t.Errorf("SPI %#x: echo messages by type and identifier %v, want %d each of %v and %v", sas[i].SPI, s.Echoes, guest.RecordedPings, request, reply)
	}
	if want := 2 * guest.RecordedBytes; s.TCP < want {
		t.Errorf("SPI %#x: %d bytes of TCP, want %d", sas[i].SPI, s.TCP, want)
	}
	inner := []string{"icmp", "tcp"}
	if r.Pair != nil {
		inner = []string{"ipv6"}
	}
	if got := slices.Sorted(maps.Keys(s.Inner)); !slices.Equal(got, inner) {
		t.Errorf("SPI %#x: packets hold %q, want %q", sas[i].SPI, got, inner)
	}
}

// echo is the type and identifier of the echo requests under an SA.
func echo(r guest.Recording, i int) [2]int {
	kind := 8
	if r.Pair != nil && r.V6 {
		kind = 128
	}
	return [2]int{kind, int(r.EchoIDs[i])}
}

// sasOf are the SAs of a recording, that of A's packets first.
func sasOf(t *testing.T, r guest.Recording) (sas [2]lab.SA) {
	t.Helper()
	if r.Pair != nil {
		return r.SAs()
	}
	text, err := os.ReadFile("../testdata/vendor/first-server.xfrm.sh")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := xfrm.ParseScript(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		cmd, err := xfrm.Parse(line.Words, xfrm.Env{Interface: func(string) (int, error) { return 1, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if s := cmd.State; s != nil {
			i := map[netip.Addr]int{lab.A4: 0, lab.B4: 1}[s.Src]
			sas[i] = lab.SA{Src: s.Src, Dst: s.Dst, SPI: uint32(s.SPI), Reqid: s.Reqid, Key: s.AEAD.Key.ExposeSecretBytes()}
		}
	}
	return sas
}
