package xfrm

import "github.com/mdlayher/netlink"

// SADInfo is the answer to GETSADINFO: the number of SAs, and the hash table's size.
type SADInfo struct {
	Count                uint32
	HashBuckets, HashMax uint32
}

// SPDInfo is the answer to GETSPDINFO: the number of policies per direction, per socket
// policies apart, the hash table's size and its thresholds.
type SPDInfo struct {
	In, Out, Fwd                   uint32
	SocketIn, SocketOut, SocketFwd uint32
	HashBuckets, HashMax           uint32
	Thresholds
}

// Thresholds are the prefix lengths from which on policies are hashed: struct
// xfrmu_spdhthresh for each family. nil is not told, and leaves a setting as it is.
type Thresholds struct {
	IPv4, IPv6 *Threshold
}

// Threshold is of the local and the remote prefix, in bits.
type Threshold struct {
	Local, Remote uint8
}

// EncodeInfoRequest returns the payload of GETSADINFO and GETSPDINFO: 32 flag bits that
// mean nothing and that iproute2 sends set.
func EncodeInfoRequest() []byte { return words(1<<32 - 1) }

// EncodeSADInfo returns the payload of NEWSADINFO.
func EncodeSADInfo(i SADInfo) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(attrSADCount, i.Count)
	ae.Bytes(attrSADHash, words(i.HashBuckets, i.HashMax))
	return withAttrs(words(0), ae)
}

// EncodeSPDInfo returns the payload of NEWSPDINFO.
func EncodeSPDInfo(i SPDInfo) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(attrSPDInfo, words(i.In, i.Out, i.Fwd, i.SocketIn, i.SocketOut, i.SocketFwd))
	ae.Bytes(attrSPDHash, words(i.HashBuckets, i.HashMax))
	putThresholds(ae, i.Thresholds)
	return withAttrs(words(0), ae)
}

// EncodeThresholds returns the payload of NEWSPDINFO as a request, which sets them.
func EncodeThresholds(t Thresholds) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	putThresholds(ae, t)
	return withAttrs(EncodeInfoRequest(), ae)
}

func putThresholds(ae *netlink.AttributeEncoder, t Thresholds) {
	if h := t.IPv4; h != nil {
		ae.Bytes(attrSPDThresh4, []byte{h.Local, h.Remote})
	}
	if h := t.IPv6; h != nil {
		ae.Bytes(attrSPDThresh6, []byte{h.Local, h.Remote})
	}
}

// words lays numbers out in host byte order.
func words(v ...uint32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, w := range v {
		b = host.AppendUint32(b, w)
	}
	return b
}
