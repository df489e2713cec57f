package xfrm

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
func EncodeInfoRequest() []byte {
	p := newPayload(sizeInfoFlags)
	host.PutUint32(p, 1<<32-1)
	return p
}

// sizeInfoFlags is that of the flag bits, which mean nothing, in front of the attributes.
const sizeInfoFlags = 4

// EncodeSADInfo returns the payload of NEWSADINFO.
func EncodeSADInfo(i SADInfo) ([]byte, error) {
	p := newPayload(sizeInfoFlags)
	p.uint32(attrSADCount, i.Count)
	p.uint32s(attrSADHash, i.HashBuckets, i.HashMax)
	return p, nil
}

// EncodeSPDInfo returns the payload of NEWSPDINFO.
func EncodeSPDInfo(i SPDInfo) ([]byte, error) {
	p := newPayload(sizeInfoFlags)
	p.uint32s(attrSPDInfo, i.In, i.Out, i.Fwd, i.SocketIn, i.SocketOut, i.SocketFwd)
	p.uint32s(attrSPDHash, i.HashBuckets, i.HashMax)
	putThresholds(&p, i.Thresholds)
	return p, nil
}

// EncodeThresholds returns the payload of NEWSPDINFO as a request, which sets them.
func EncodeThresholds(t Thresholds) ([]byte, error) {
	p := payload(EncodeInfoRequest())
	putThresholds(&p, t)
	return p, nil
}

func putThresholds(p *payload, t Thresholds) {
	if h := t.IPv4; h != nil {
		p.bytes(attrSPDThresh4, []byte{h.Local, h.Remote})
	}
	if h := t.IPv6; h != nil {
		p.bytes(attrSPDThresh6, []byte{h.Local, h.Remote})
	}
}
