package probe

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"espalier/internal/netns"
)

func TestFeature(t *testing.T) {
	for want, f := range map[string]Feature{
		"unknown":     {},
		"on":          {Known: true, On: true},
		"on [fixed]":  {Known: true, On: true, Fixed: true},
		"off":         {Known: true},
		"off [fixed]": {Known: true, Fixed: true},
	} {
		if f.String() != want {
			t.Errorf("%+v: %q, want %q", f, f, want)
		}
	}
}

// A veth device has a driver and no offload, which nobody can switch on.
func TestAskNIC(t *testing.T) {
	ns, err := netns.New()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("needs root: %v", err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "p4p1"}, PeerName: "p4p2"})
	})
	if err != nil {
		t.Fatal(err)
	}
	var nic NIC
	if err := ns.Do(func() error { nic, err = AskNIC("p4p1"); return err }); err != nil {
		t.Fatal(err)
	}
	if nic.Driver != "veth" || nic.ESPOffload.String() != "off [fixed]" {
		t.Errorf("%+v", nic)
	}
	if err := ns.Do(func() error { _, err := AskNIC("nothing"); return err }); err == nil {
		t.Error("a device that is not there was asked")
	}
}
