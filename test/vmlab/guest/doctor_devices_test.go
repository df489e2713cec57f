package guest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"espalier/test/lab"
)

// examined is what the doctor says of a device: the answers by their questions' names.
type examined struct {
	readiness, reason string
	answers, whys     map[string]string
}

func examine(t *testing.T, h *lab.Host, device string) examined {
	t.Helper()
	r := h.Command(Espalier, "doctor", device, "-o", "json")
	var report struct {
		Devices []struct {
			Readiness, Reason string
			Layers            []struct {
				Checks []struct{ ID, Answer, Why string }
			}
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil || len(report.Devices) != 1 {
		t.Fatalf("exit %d, %v: %s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	d := report.Devices[0]
	e := examined{d.Readiness, d.Reason, make(map[string]string), make(map[string]string)}
	for _, l := range d.Layers {
		for _, c := range l.Checks {
			e.answers[c.ID], e.whys[c.ID] = c.Answer, c.Why
		}
	}
	return e
}

func (e examined) want(t *testing.T, readiness string, answers map[string]string) {
	t.Helper()
	if e.readiness != readiness {
		t.Errorf("%s (%s), want %s", e.readiness, e.reason, readiness)
	}
	for id, answer := range answers {
		if e.answers[id] != answer {
			t.Errorf("%s: %q (%s), want %q", id, e.answers[id], e.whys[id], answer)
		}
	}
}

// TestDoctorDevices: a NIC whose driver offloads ESP, and what can be in the way of it.
func TestDoctorDevices(t *testing.T) {
	l := onNIC(t, "p4p1")
	examine(t, l.A, "p4p1").want(t, "READY", map[string]string{
		"driver.esp-offload": "yes", "topology.kind": "yes", "nic.link": "yes", "topology.disable-xfrm": "yes",
	})

	err := l.A.Do(func() error {
		lower, err := netlink.LinkByName("p4p1")
		if err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "p4p1.100", ParentIndex: lower.Attrs().Index}, VlanId: 100})
	})
	if err != nil {
		t.Fatal(err)
	}
	vlan := examine(t, l.A, "p4p1.100")
	vlan.want(t, "NOT READY", map[string]string{"driver.esp-offload": "no", "topology.kind": "no", "nic.link": "no"})
	if want := "p4p1.100, a VLAN of p4p1, has no ESP offload"; vlan.reason != want {
		t.Errorf("%q, want %q", vlan.reason, want)
	}

	l.A.Must("ethtool", "-K", "p4p1", "tx-esp-segmentation", "off")
	examine(t, l.A, "p4p1").want(t, "READY", map[string]string{"driver.esp-segmentation": "no", "driver.esp-checksum": "yes"})

	err = l.A.Do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		port, err := netlink.LinkByName("p4p1")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(port, bridge)
	})
	if err != nil {
		t.Fatal(err)
	}
	examine(t, l.A, "p4p1").want(t, "NOT READY", map[string]string{"driver.esp-offload": "yes", "topology.port": "no"})
	examine(t, l.A, "br0").want(t, "NOT READY", map[string]string{"topology.kind": "no"})
}

// TestDoctorNetdevsim: the kernel's simulated NIC says that it offloads ESP. The doctor knows better.
func TestDoctorNetdevsim(t *testing.T) {
	h := lab.NewHost(t, "A", "p4p1")
	newNetdevsim(t, h)
	e := examine(t, h, "p4p1")
	e.want(t, "NOT READY", map[string]string{"driver.esp-offload": "no", "nic.driver": "no", "topology.kind": "yes"})
	if !strings.Contains(e.reason, "encrypts nothing") {
		t.Errorf("%q", e.reason)
	}
}
