package probe

import "testing"

// TestProducts holds the claims against the documents they are from: NVIDIA's MLNX_OFED 24.10 LTS on
// IPsec Crypto Offload names ConnectX-6 Dx, ConnectX-7 and BlueField-2, says no of ConnectX-6 and 6 Lx
// (5.8 said yes of the latter), and expects it of what is newer; the PCI ID database has the ids.
func TestProducts(t *testing.T) {
	claims := map[string]Claim{
		"15b3:1013": NotListed, "15b3:1015": NotListed, "15b3:1017": NotListed, "15b3:1019": NotListed, "15b3:101b": OffloadsNot,
		"15b3:101d": Offloads, "15b3:101e": IfEnabled, "15b3:101f": Conflicting, "15b3:1021": Offloads, "15b3:1023": Expected, "15b3:1025": Expected,
		"15b3:1027": Expected, "15b3:2101": Expected, "15b3:a2d2": NotListed, "15b3:a2d6": Offloads, "15b3:a2d9": Expected, "15b3:a2dc": Offloads, "15b3:a2df": Expected,
	}
	limited := map[string]bool{"15b3:101d": true, "15b3:a2d6": true}
	for _, p := range Products {
		if claims[p.ID()] != p.ESP || p.Source == "" || p.Name == "" {
			t.Errorf("%s %s: %s, want %s", p.ID(), p.Name, p.ESP, claims[p.ID()])
		}
		if limited[p.ID()] != (p.LimitedFrom == 100_000) || limited[p.ID()] != (p.Note == limitedNote) {
			t.Errorf("%s: limited from %d", p.Name, p.LimitedFrom)
		}
		delete(claims, p.ID())
	}
	if len(claims) > 0 {
		t.Errorf("not in the table: %v", claims)
	}
	for id, enabled := range map[uint16]bool{
		0xa2d0: true, 0xa2d1: false, 0xa2d4: true, 0xa2d5: false, 0xa2d7: true, 0xa2d8: false, 0xa2da: true, 0xa2db: false, 0xa2dd: true, 0xa2de: false,
	} {
		found := false
		for _, s := range CryptoSKUs {
			found = found || s.Device == id && s.Enabled == enabled && productOf(mellanox, s.Product) != nil
		}
		if !found {
			t.Errorf("%04x is not held for enabled: %v", id, enabled)
		}
	}
	// Of the network drivers of Debian's 6.12.117 these have xfrmdev_ops; octeontx2 has since 6.14, Chelsio's with
	// an option that Debian leaves out.
	for name, answer := range map[string]Answer{
		"mlx5_core": Yes, "ixgbe": Yes, "ixgbevf": Yes, "nfp": Yes, "bonding": Yes, "cxgb4": Yes, "rvu_nicpf": Yes, "netdevsim": No,
		"i40e": No, "ice": No, "iavf": No, "virtio_net": No, "veth": No, "mlx5e_rep": No,
	} {
		if d := driverESP(name); d == nil || d.ESP.answer() != answer || d.Source == "" || d.Note == "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
