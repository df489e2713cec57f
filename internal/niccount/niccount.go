// Package niccount names the counters (ethtool -S) in which drivers tell what their NICs encrypt and decrypt.
package niccount

// Names of one driver's counters of packets. An empty one is not there.
type Names struct {
	Encrypted, Decrypted string // by the NIC, of all SAs together
	// TxDropped and RxDropped are packets of SAs that the NIC dropped.
	TxDropped, RxDropped string
	// Handed is of those who count no single packets: what the driver gave to the NIC, large ones as one. No
	// verdict can go by it.
	Handed string
}

// mlx5 is counted by the hardware from Linux 6.2 on
// (drivers/net/ethernet/mellanox/mlx5/core/en_accel/ipsec_stats.c).
var mlx5 = Names{Encrypted: "ipsec_tx_pkts", Decrypted: "ipsec_rx_pkts", TxDropped: "ipsec_tx_drop_pkts", RxDropped: "ipsec_rx_drop_pkts"}

var drivers = map[string]Names{
	"mlx5_core": mlx5,
	"ixgbe":     {Handed: "tx_ipsec"}, // drivers/net/ethernet/intel/ixgbe/ixgbe_ethtool.c
	"ixgbevf":   {Handed: "tx_ipsec"},
}

// Of is what a driver is known to count by. Of those that nobody knows, counters by the names of mlx5's are
// taken for the same: what they are worth is another question.
func Of(driver string) Names {
	if n, known := drivers[driver]; known {
		return n
	}
	return mlx5
}
