package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"espalier/test/lab"
)

// netdevsim is the kernel's own simulated NIC. It takes SAs for offload and counts the packets
// it is given for them, which it does not encrypt.
type netdevsim struct{ table string }

const netdevsimBus = "/sys/bus/netdevsim/"

// newNetdevsim makes one the host's device, up and without an address.
func newNetdevsim(t *testing.T, h *lab.Host) netdevsim {
	t.Helper()
	if _, err := os.Stat(netdevsimBus); err != nil {
		t.Skip("there is no netdevsim for this kernel: the reason is with the host's test of that name")
	}
	const id = "0"
	tell := func(file string) error {
		return h.Do(func() error { return os.WriteFile(netdevsimBus+file, []byte(id), 0) })
	}
	before := devices(t, h)
	if err := tell("new_device"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tell("del_device"); err != nil {
			t.Error(err)
		}
	})
	for name := range devices(t, h) {
		if !before[name] {
			h.Must("ip", "link", "set", name, "name", h.Device)
			h.Must("ip", "link", "set", h.Device, "up")
			return netdevsim{filepath.Join("/sys/kernel/debug/netdevsim/netdevsim"+id, "ports/0/ipsec")}
		}
	}
	t.Fatal("netdevsim made no device")
	return netdevsim{}
}

// devices of the host, by name.
func devices(t *testing.T, h *lab.Host) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	err := h.Do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			names[l.Attrs().Name] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// driverSA is an SA as the driver has it.
type driverSA struct {
	direction string // "tx" or "rx"
	spi       uint64
	salt      string // its bytes, as a number of the machine's
}

var (
	driverCounts = regexp.MustCompile(`^SA count=(\d+) tx=(\d+)\n`)
	driverState  = regexp.MustCompile(`(?m)^sa\[\d+\] ([rt]x) .*\nsa\[\d+\] +spi=(\S+) proto=0x32 salt=(\S+) crypt=1$`)
)

// read gives what the driver tells of itself: its SAs and how many packets it has sent by them.
func (n netdevsim) read(t *testing.T) (sas []driverSA, sent uint64) {
	t.Helper()
	text := read(t, n.table)
	counts := driverCounts.FindStringSubmatch(text)
	if counts == nil {
		t.Fatalf("netdevsim says\n%s", text)
	}
	for _, m := range driverState.FindAllStringSubmatch(text, -1) {
		spi, err := strconv.ParseUint(m[2], 0, 32)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		sas = append(sas, driverSA{m[1], spi, m[3]})
	}
	if fmt.Sprint(len(sas)) != counts[1] {
		t.Errorf("netdevsim counts %s SAs and shows %d:\n%s", counts[1], len(sas), text)
	}
	sent, err := strconv.ParseUint(counts[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return sas, sent
}

// What a device refuses whose driver can do less than a NIC with all operations.
func TestNetdevsimRefusals(t *testing.T) {
	const (
		offloadedOut = "accepted, offload flags 0x0"
		einval       = "refused: invalid argument"

		unrecognized = einval + ": Unrecognized flags in offload request"
		neither      = einval + ": Encapsulation and TFC padding can't be offloaded"
		noESN        = einval + ": Device doesn't support offload with ESN"
		noKey        = einval + ": netdevsim: Failed to get key data for SA table"
		failed       = einval + ": Device failed to offload this state" // why is in the kernel's log
	)
	h := lab.NewHost(t, "A", "p4p1")
	nic := newNetdevsim(t, h)
	c := kernelOf(t, h)
	for _, tt := range []struct {
		name, words string
		want        string // from 6.12 on
		old         string // on 6.1, where it differs
	}{
		{name: "crypto offload, AES-256, sending", words: state + aead + "128" + offload, want: offloadedOut},
		{name: "crypto offload, AES-256, receiving", words: state + aead + "128 offload dev p4p1 dir in", want: "accepted, offload flags 0x2"},
		{name: "crypto offload, AES-192", words: state + "aead rfc4106(gcm(aes)) " + key192 + " 128" + offload, want: offloadedOut},
		{name: "crypto offload, tunnel mode", words: tunnel + aead + "128" + offload, want: offloadedOut},
		{name: "packet offload", words: state + aead + "128 offload packet dev p4p1 dir out", want: einval + ": netdevsim: Unsupported ipsec offload type", old: unrecognized},
		{name: "ESN with crypto offload, sending", words: state + "flag esn replay-window 64 " + aead + "128" + offload, want: noESN},
		{name: "ESN with crypto offload, receiving", words: state + "flag esn replay-window 64 " + aead + "128 offload dev p4p1 dir in", want: noESN},
		{name: "ICV of 64 bits with crypto offload", words: state + aead + "64" + offload, want: noKey, old: failed},
		{name: "ICV of 96 bits with crypto offload", words: state + aead + "96" + offload, want: noKey, old: failed},
		{name: "TFC padding with crypto offload", words: tunnel + aead + "128 tfcpad 100" + offload, want: einval + ": TFC padding can't be offloaded", old: neither},
		{name: "UDP encapsulation with crypto offload", words: state + aead + "128 encap espinudp 4500 4500 0.0.0.0" + offload, want: offloadedOut, old: neither},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := outcome(t, c, parse(t, h, tt.words).State)
			Tell("State add, on netdevsim", tt.name, got)
			if want := forKernel(t, tt.want, tt.old); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			if sas, _ := nic.read(t); len(sas) != 0 {
				t.Errorf("the driver keeps %+v", sas)
			}
		})
	}
}

// The driver's table has room for 33 SAs. What is refused is not there in software either.
func TestNetdevsimTable(t *testing.T) {
	const room = 33
	h := lab.NewHost(t, "A", "p4p1")
	nic := newNetdevsim(t, h)
	c := kernelOf(t, h)
	add := func(i int) error {
		words := strings.Replace(state, "0x1000", fmt.Sprint(0x1000+i), 1) + aead + "128" + offload
		return c.AddState(t.Context(), parse(t, h, words).State)
	}
	for i := range room {
		if err := add(i); err != nil {
			t.Fatalf("SA %d: %v", i+1, err)
		}
	}
	err := add(room)
	if err == nil {
		t.Fatalf("SA %d was accepted", room+1)
	}
	got := refusal(t, err)
	Tell("State add, on netdevsim", "one more SA than the driver's table holds", got)
	const refused = "refused: no space left on device: "
	if want := forKernel(t, refused+"netdevsim: No space for SA in Rx table!", refused+"Device failed to offload this state"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	info, err := c.SADInfo(t.Context())
	if sas, _ := nic.read(t); err != nil || info.Count != room || len(sas) != room {
		t.Errorf("%d SAs in the kernel, %d in the driver, want %d; %v", info.Count, len(sas), room, err)
	}
	if err := c.FlushStates(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if sas, _ := nic.read(t); len(sas) != 0 {
		t.Errorf("after a flush the driver keeps %d SAs", len(sas))
	}
}
