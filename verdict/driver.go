package verdict

// Trust in a network driver: what it means that its device counts a packet as encrypted.
type Trust string

const (
	Trusted   Trust = "hardware" // a NIC has encrypted it
	Emulation Trust = "emulated" // a program that plays a NIC has
	Stranger  Trust = "unknown"  // nobody has looked at this driver yet: nothing
)

// drivers are those of which it is known. Only the drivers of hardware in this list can make an SA
// HARDWARE: their ipsec_* counters are read from the device (for mlx5_core from flow counters of the
// steering tables that encrypt, drivers/net/ethernet/mellanox/mlx5/core/en_accel/ipsec_fs.c).
var drivers = map[string]Trust{
	"mlx5_core": Trusted,
	"netdevsim": Emulation, // the kernel's own; does not encrypt at all
	"labnic":    labNIC,    // of test/vmlab; encrypts on the CPU
}

// TrustIn tells what a driver's counters are worth.
func TrustIn(driver string) Trust {
	if t, known := drivers[driver]; known {
		return t
	}
	return Stranger
}
