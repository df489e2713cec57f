package xfrm

import (
	"fmt"
	"net/netip"

	"espalier/ipsec"
)

// State is one SA as struct xfrm_usersa_info and its attributes say it. Zero values mean
// "not set": no attribute is sent for them.
type State struct {
	Src, Dst netip.Addr
	Proto    uint8 // IPPROTO_ESP and its siblings
	SPI      ipsec.SPI
	Mode     Mode
	Reqid    uint32
	Seq      uint32 // km sequence number, not a packet's
	Sel      Selector
	Limits   LifetimeConfig
	Current  LifetimeCurrent // read back only
	Stats    StateStats      // read back only

	ReplayWindow uint32 // packets; sent as the legacy byte or as XFRMA_REPLAY_ESN_VAL
	Flags        StateFlag
	ExtraFlags   uint32 // XFRMA_SA_EXTRA_FLAGS

	AEAD       *AEAD
	Crypt      *Algorithm // enc
	Auth       *Algorithm
	AuthTrunc  *AuthTrunc // engines give both this and Auth back for either
	Comp       *Algorithm // its key is empty
	Encap      *EncapTmpl
	CoAddr     netip.Addr   // Mobile IPv6 care-of address
	SecCtx     *SecCtx      // LSM security context
	Replay     *ReplayState // sequence numbers and bitmap
	Offload    *Offload
	Dir        StateDir
	Mark       *Mark
	OutputMark *Mark // XFRMA_SET_MARK, XFRMA_SET_MARK_MASK
	IfID       uint32
	TFCPad     uint32
	LastUsed   uint64 // Unix seconds; read back only

	ReplayThresh, TimerThresh *uint32 // when aevents are sent, see AEvent
	MappingThresh             uint32  // XFRMA_MTIMER_THRESH, seconds between MAPPING events
	NATKeepalive              uint32  // seconds between keepalives; 0: none
	PCPU                      *uint32 // the CPU this SA is for
	IPTFS                     *IPTFS  // of ModeIPTFS

	// Other lists attributes of a decoded message that are not known here (XFRMA_*
	// numbers). They are not encoded.
	Other []uint16
}

// StateID names a state as GETSA and DELSA do. The kernel looks at Src only for protocols
// that have no SPI.
type StateID struct {
	Src, Dst netip.Addr // Src is optional
	Proto    uint8
	SPI      ipsec.SPI
	Mark     *Mark
}

// IsLarval reports whether the state only holds a place, for an SA that is being negotiated: of
// ALLOCSPI, or of a packet that found no SA. It has no algorithm yet.
func (s *State) IsLarval() bool {
	return s.AEAD == nil && s.Crypt == nil && s.Auth == nil && s.AuthTrunc == nil && s.Comp == nil
}

// ID is the identity of the state.
func (s *State) ID() StateID {
	return StateID{Src: s.Src, Dst: s.Dst, Proto: s.Proto, SPI: s.SPI, Mark: s.Mark}
}

// String is SPI, source and destination: "0x28f39549 192.168.1.64→192.168.1.65".
func (id StateID) String() string {
	if !id.Src.IsValid() {
		return fmt.Sprintf("%s→%s", id.SPI, id.Dst)
	}
	return fmt.Sprintf("%s %s→%s", id.SPI, id.Src, id.Dst)
}

// Mode is XFRM_MODE_*.
type Mode uint8

const (
	ModeTransport Mode = iota
	ModeTunnel
	ModeRouteOptimization
	ModeInTrigger
	ModeBeet
	ModeIPTFS
)

// StateFlag is XFRM_STATE_*.
type StateFlag uint8

const (
	FlagNoECN StateFlag = 1 << iota
	FlagDecapDSCP
	FlagNoPMTUDisc
	FlagWildRecv
	FlagICMP
	FlagAFUnspec
	FlagAlign4
	FlagESN
)

// StateDir is XFRM_SA_DIR_*; 0 is unset.
type StateDir uint8

const (
	StateDirIn  StateDir = 1
	StateDirOut StateDir = 2
)

// EncapTmpl is struct xfrm_encap_tmpl.
type EncapTmpl struct {
	Type             EncapType
	SrcPort, DstPort uint16
	OA               netip.Addr
}

// EncapType is UDP_ENCAP_* and TCP_ENCAP_ESPINTCP.
type EncapType uint16

const (
	EncapESPInUDPNonIKE EncapType = 1
	EncapESPInUDP       EncapType = 2
	EncapESPInTCP       EncapType = 7
)

// ReplayState is struct xfrm_replay_state or xfrm_replay_state_esn, whichever fits: the
// high halves are 0 without ESN.
type ReplayState struct {
	Seq, OSeq     uint32
	SeqHi, OSeqHi uint32
	Bitmap        []uint32
}

// Offload is struct xfrm_user_offload.
type Offload struct {
	Ifindex int32
	Flags   OffloadFlag
}

// OffloadFlag is XFRM_OFFLOAD_*.
type OffloadFlag uint8

const (
	OffloadIPv6    OffloadFlag = 1
	OffloadInbound OffloadFlag = 2
	OffloadPacket  OffloadFlag = 4
)

// Mark is struct xfrm_mark.
type Mark struct {
	Value, Mask uint32
}

// Selector is struct xfrm_selector: an ipsec.Selector that always has a family (AF_UNSPEC
// for the selector that matches everything).
type Selector struct {
	ipsec.Selector
	Family uint16
	User   uint32
}

// Infinity is XFRM_INF: no limit of bytes or packets. For those 0 means "already
// reached"; for the times, in seconds, 0 means none.
const Infinity = ^uint64(0)

// LifetimeConfig is struct xfrm_lifetime_cfg.
type LifetimeConfig struct {
	SoftBytes, HardBytes     uint64
	SoftPackets, HardPackets uint64
	SoftAdd, HardAdd         uint64 // seconds since the add
	SoftUse, HardUse         uint64 // seconds since the first use
}

// NoLimits is what a state without `limit` has.
var NoLimits = LifetimeConfig{SoftBytes: Infinity, HardBytes: Infinity, SoftPackets: Infinity, HardPackets: Infinity}

// LifetimeCurrent is struct xfrm_lifetime_cur. Times are Unix seconds.
type LifetimeCurrent struct {
	Bytes, Packets, AddTime, UseTime uint64
}

// StateStats is struct xfrm_stats.
type StateStats struct {
	ReplayWindow, Replay, IntegrityFailed uint32
}
