package xfrm

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/mdlayher/netlink"
)

// MsgType is XFRM_MSG_*, the type of a NETLINK_XFRM message (uapi linux/xfrm.h).
type MsgType uint16

const (
	MsgNewSA MsgType = 0x10 + iota
	MsgDelSA
	MsgGetSA
	MsgNewPolicy
	MsgDelPolicy
	MsgGetPolicy
	MsgAllocSPI
	MsgAcquire
	MsgExpire
	MsgUpdPolicy
	MsgUpdSA
	MsgPolExpire
	MsgFlushSA
	MsgFlushPolicy
	MsgNewAE
	MsgGetAE
	MsgReport
	MsgMigrate
	MsgNewSADInfo
	MsgGetSADInfo
	MsgNewSPDInfo
	MsgGetSPDInfo
	MsgMapping
	MsgSetDefault
	MsgGetDefault
)

var msgTypeNames = [...]string{
	"NEWSA", "DELSA", "GETSA", "NEWPOLICY", "DELPOLICY", "GETPOLICY", "ALLOCSPI", "ACQUIRE", "EXPIRE", "UPDPOLICY",
	"UPDSA", "POLEXPIRE", "FLUSHSA", "FLUSHPOLICY", "NEWAE", "GETAE", "REPORT", "MIGRATE", "NEWSADINFO", "GETSADINFO",
	"NEWSPDINFO", "GETSPDINFO", "MAPPING", "SETDEFAULT", "GETDEFAULT",
}

// String is the name without XFRM_MSG_, such as "NEWSA".
func (t MsgType) String() string {
	if t < MsgNewSA || int(t-MsgNewSA) >= len(msgTypeNames) {
		return fmt.Sprintf("message type %#x", uint16(t))
	}
	return msgTypeNames[t-MsgNewSA]
}

// Multicast groups, XFRMNLGRP_*.
const (
	GroupAcquire uint32 = 1 + iota
	GroupExpire
	GroupSA
	GroupPolicy
	GroupAEvents
	GroupReport
	GroupMigrate
	GroupMapping
)

// headerLen is the size of struct nlmsghdr.
const headerLen = 16

// Messages iterates over the netlink messages in one datagram. Payloads point into b. The
// iteration ends with an error at the first header that does not fit; what came before it
// was whole.
func Messages(b []byte) iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		for len(b) > 0 {
			if len(b) < headerLen {
				yield(netlink.Message{}, invalid("netlink: %d bytes left, too few for a message header", len(b)))
				return
			}
			m := netlink.Message{Header: netlink.Header{
				Length:   binary.NativeEndian.Uint32(b),
				Type:     netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])),
				Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
				Sequence: binary.NativeEndian.Uint32(b[8:]),
				PID:      binary.NativeEndian.Uint32(b[12:]),
			}}
			n := m.Header.Length
			if n < headerLen || uint64(n) > uint64(len(b)) {
				yield(m, invalid("netlink: message of %d bytes in the %d that are left", n, len(b)))
				return
			}
			m.Data = b[headerLen:n:n]
			if !yield(m, nil) {
				return
			}
			b = b[min((int(n)+3)&^3, len(b)):]
		}
	}
}

// AppendHeader appends a header to a datagram, for a payload to be appended behind it.
func AppendHeader(b []byte, h netlink.Header) []byte {
	b = binary.NativeEndian.AppendUint32(b, h.Length)
	b = binary.NativeEndian.AppendUint16(b, uint16(h.Type))
	b = binary.NativeEndian.AppendUint16(b, uint16(h.Flags))
	b = binary.NativeEndian.AppendUint32(b, h.Sequence)
	return binary.NativeEndian.AppendUint32(b, h.PID)
}

// AppendMessage appends m to a datagram, padded to four bytes. The header's length is
// computed.
func AppendMessage(b []byte, m netlink.Message) []byte {
	m.Header.Length = uint32(headerLen + len(m.Data))
	b = AppendHeader(b, m.Header)
	b = append(b, m.Data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
