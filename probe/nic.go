package probe

// NIC is what a network device's driver says of it (ethtool -i, -k).
type NIC struct {
	Name   string
	Driver string // "mlx5_core"; "" if the device has none that says so, as a VLAN
	// ESPOffload is the feature esp-hw-offload: ESP's cryptography (NETIF_F_HW_ESP).
	ESPOffload Feature
}

// Feature is a switch of a network device's.
type Feature struct {
	Known bool // to this kernel and device
	On    bool
	Fixed bool // cannot be switched
}

// String is as in ethtool -k: "on", "off [fixed]".
func (f Feature) String() string {
	switch {
	case !f.Known:
		return "unknown"
	case f.On && f.Fixed:
		return "on [fixed]"
	case f.On:
		return "on"
	case f.Fixed:
		return "off [fixed]"
	}
	return "off"
}

// AskNIC asks a device of the calling thread's network namespace.
func AskNIC(name string) (NIC, error) {
	nic := NIC{Name: name}
	network := here()
	features, err := network.Features(name)
	if err != nil {
		return nic, err
	}
	nic.ESPOffload = features[espOffload]
	driver, _ := network.Driver(name) // a device need not have one
	nic.Driver = driver.Name
	return nic, nil
}
