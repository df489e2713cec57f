package probe

import "fmt"

// Claim is what documents and drivers say of a product and ESP's cryptography. None of them
// proves anything: the driver, asked for its features, decides, and a read-back SA shows.
type Claim string

const (
	Offloads     Claim = "yes, if crypto-enabled"
	Expected     Claim = "expected"
	Conflicting  Claim = "documents conflict"
	IfEnabled    Claim = "if the PF lets it"
	Partly       Claim = "partly"
	OffloadsNot  Claim = "no"
	NotListed    Claim = "not listed"
	PretendsOnly Claim = "pretends"
)

// answer to the question whether the product offloads ESP.
func (c Claim) answer() Answer {
	switch c {
	case Offloads, Expected, Partly:
		return Yes
	case OffloadsNot, PretendsOnly:
		return No
	}
	return Unknown
}

// Product is a network function by its PCI id.
type Product struct {
	Vendor, Device uint16
	Name           string
	ESP            Claim
	Note           string // "" or a sentence without its full stop
	Source         string // where that stands
	LimitedFrom    uint32 // speed of the link in Mb/s at and above which the vendor documents a limit; 0 for none
}

// ID is as lspci -nn writes it: "15b3:101d".
func (p *Product) ID() string { return fmt.Sprintf("%04x:%04x", p.Vendor, p.Device) }

const (
	mellanox = 0x15b3

	vendorYes   = "NVIDIA MLNX_OFED 24.10 LTS, IPsec Crypto Offload: named, if crypto-enabled"
	vendorNo    = "NVIDIA MLNX_OFED 24.10 LTS, IPsec Crypto Offload: named as without it"
	vendorNewer = "NVIDIA MLNX_OFED 24.10 LTS: newer crypto-enabled generations should, unless their documents say otherwise; id from Linux, mlx5/core/main.c"
	vendorByNIC = "NVIDIA MLNX_OFED 24.10 LTS, by its NIC, a ConnectX-7: BlueField-3 itself is not named there; id from the PCI ID database"
	vendorLx    = "NVIDIA MLNX_OFED 24.10, IPsec Crypto Offload: no; MLNX_OFED 5.8 and IPsec Packet Offload: yes"
	vendorNone  = "in none of the vendor's lists; id from Linux, mlx5/core/main.c"
	kernelVF    = "Linux 6.7, devlink-port: ipsec_crypto, off by default"
	limitedNote = "at 100 Gb/s or more of mostly IPsec traffic the vendor documents a bandwidth limitation"
)

// Products are those whose driver offloads ESP, or that are taken for such.
var Products = []Product{
	{mellanox, 0x1013, "ConnectX-4", NotListed, "", vendorNone, 0},
	{mellanox, 0x1015, "ConnectX-4 Lx", NotListed, "", vendorNone, 0},
	{mellanox, 0x1017, "ConnectX-5", NotListed, "", vendorNone, 0},
	{mellanox, 0x1019, "ConnectX-5 Ex", NotListed, "", vendorNone, 0},
	{mellanox, 0x101b, "ConnectX-6", OffloadsNot, "a ConnectX-6 Dx is another product", vendorNo, 0},
	{mellanox, 0x101d, "ConnectX-6 Dx", Offloads, limitedNote, vendorYes, 100_000},
	{mellanox, 0x101e, "ConnectX or BlueField virtual function", IfEnabled, "", kernelVF, 0},
	{mellanox, 0x101f, "ConnectX-6 Lx", Conflicting, "", vendorLx, 0},
	{mellanox, 0x1021, "ConnectX-7", Offloads, "", vendorYes, 0},
	{mellanox, 0x1023, "ConnectX-8", Expected, "", vendorNewer, 0},
	{mellanox, 0x1025, "ConnectX-9", Expected, "", vendorNewer, 0},
	{mellanox, 0x1027, "ConnectX-10", Expected, "", vendorNewer, 0},
	{mellanox, 0x2101, "ConnectX-10 NVLink-C2C", Expected, "", vendorNewer, 0},
	{mellanox, 0xa2d2, "BlueField", NotListed, "its NIC is a ConnectX-5", vendorNone, 0},
	{mellanox, 0xa2d6, "BlueField-2", Offloads, limitedNote, vendorYes, 100_000},
	{mellanox, 0xa2d9, "BlueField-3 Lx", Expected, "its NIC is a ConnectX-7", vendorByNIC, 0},
	{mellanox, 0xa2dc, "BlueField-3", Offloads, "its NIC is a ConnectX-7", vendorByNIC, 0},
	{mellanox, 0xa2df, "BlueField-4", Expected, "", vendorNewer, 0},
}

// productOf returns the product with a PCI id, nil if it is not in the table.
func productOf(vendor, device uint16) *Product {
	for i := range Products {
		if p := &Products[i]; p.Vendor == vendor && p.Device == device {
			return p
		}
	}
	return nil
}

// CryptoSKU is the function of a BlueField that tells, in the same slot as its NIC, whether the
// card's cryptography is enabled.
type CryptoSKU struct {
	Device  uint16
	Product uint16 // the NIC beside it
	Enabled bool
}

// CryptoSKUs are of vendor 15b3, from the PCI ID database.
var CryptoSKUs = []CryptoSKU{
	{0xa2d0, 0xa2d2, true}, {0xa2d1, 0xa2d2, false},
	{0xa2d4, 0xa2d6, true}, {0xa2d5, 0xa2d6, false},
	{0xa2d7, 0xa2d9, true}, {0xa2d8, 0xa2d9, false},
	{0xa2da, 0xa2dc, true}, {0xa2db, 0xa2dc, false},
	{0xa2dd, 0xa2df, true}, {0xa2de, 0xa2df, false},
}

// DriverESP is what a driver of Linux does for ESP.
type DriverESP struct {
	Name   string // as ethtool -i says
	ESP    Claim
	Option string // that the kernel has to be built with; "" for none
	Note   string
	Source string
}

const (
	guest  = "virtual machines" // the note of drivers whose device is made up by a hypervisor
	noXFRM = "Debian's Linux 6.12.117: nothing of xfrm in the module"
)

// Drivers are those in Linux that have xfrmdev_ops (of 467 network drivers of Debian's 6.12.117, mlx5_core, ixgbe,
// ixgbevf, nfp and bonding), and some that people expect to.
var Drivers = []DriverESP{
	{"mlx5_core", Offloads, "MLX5_EN_IPSEC", "AES-GCM with 128 or 256 bits and a 128-bit ICV", "mlx5/core/en_accel/ipsec.c"},
	{"ixgbe", Partly, "IXGBE_IPSEC", "82599, X540, X550: AES-GCM with 128 bits, no ESN, transport mode only", "intel/ixgbe/ixgbe_ipsec.c"},
	{"ixgbevf", Partly, "IXGBEVF_IPSEC", "as ixgbe, if the PF allows it (private flag vf-ipsec)", "intel/ixgbevf/ipsec.c"},
	{"cxgb4", Partly, "CHELSIO_IPSEC_INLINE", "T6 with module ch_ipsec: sending only", "chelsio/inline_crypto/ch_ipsec/chcr_ipsec.c"},
	{"nfp", Partly, "NFP_NET_IPSEC", "with firmware that has it; no ESN", "netronome/nfp/crypto/ipsec.c"},
	{"rvu_nicpf", Partly, "", "OCTEON 10 since Linux 6.14: sending only, no ESN; off until switched on", "marvell/octeontx2/nic/cn10k_ipsec.c"},
	{"bonding", Partly, "", "active-backup only, by its active port", "bonding/bond_main.c"},
	{"netdevsim", PretendsOnly, "NETDEVSIM", "a test device of the kernel's: it encrypts nothing", "netdevsim/ipsec.c"},
	{"i40e", OffloadsNot, "", "X710, XL710", noXFRM},
	{"iavf", OffloadsNot, "", "virtual functions of X710, E810", noXFRM},
	{"ice", OffloadsNot, "", "E810", noXFRM},
	{"bnxt_en", OffloadsNot, "", "NetXtreme-E", noXFRM},
	{"ena", OffloadsNot, "", "Amazon's clouds", noXFRM},
	{"gve", OffloadsNot, "", "Google's clouds", noXFRM},
	{"mlx4_en", OffloadsNot, "", "ConnectX-3", noXFRM},
	{"mlx5e_rep", OffloadsNot, "", "representors of mlx5's e-switch", "mlx5/core/en_rep.c"},
	{"virtio_net", OffloadsNot, "", guest, noXFRM},
	{"vmxnet3", OffloadsNot, "", guest, noXFRM},
	{"hv_netvsc", OffloadsNot, "", guest, noXFRM},
	{"veth", OffloadsNot, "", "virtual cables", noXFRM},
}

// driverESP returns what is known of a driver, nil if nothing is.
func driverESP(name string) *DriverESP {
	for i := range Drivers {
		if Drivers[i].Name == name {
			return &Drivers[i]
		}
	}
	return nil
}
