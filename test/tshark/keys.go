package tshark

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"espalier/test/lab"
)

// esnColumn is a column that only newer versions know; the older ones say so and go on.
const esnColumn = "64-bit"

// Keys is Wireshark's esp_sa table of SAs with ICVs of 128 bits. The names of the algorithms are
// those for which tshark verifies the ICV, too.
func Keys(esn bool, sas ...lab.SA) []byte {
	var b bytes.Buffer
	for _, sa := range sas {
		version := "IPv4"
		if sa.Src.Is6() {
			version = "IPv6"
		}
		fmt.Fprintf(&b, `"%s","%s","%s","0x%08x","AES-GCM with 16 octet ICV [RFC4106]","0x%s","NULL",""`,
			version, sa.Src, sa.Dst, sa.SPI, hex.EncodeToString(sa.Key))
		if esn {
			fmt.Fprintf(&b, `,"%s"`, esnColumn)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// Spoil flips one bit of an SA's key, for controls.
func Spoil(sa lab.SA) lab.SA {
	sa.Key = bytes.Clone(sa.Key)
	sa.Key[len(sa.Key)/2] ^= 1
	return sa
}
