package xfrm

import (
	"fmt"

	"github.com/mdlayher/netlink"

	"espalier/ipsec"
)

// MsgGetDrops asks a userspace device what it dropped, and is the type of its answer. The
// kernel has no such message: it shows /proc/net/xfrm_stat. The number is far from its own.
const MsgGetDrops MsgType = 0xe0

// Attributes of one row, which is nested in an attribute of type dropRow.
const (
	dropRow = iota + 1
	dropReason
	dropCounter
	dropMeaning
	dropPackets
)

// EncodeDrops is the payload of the answer.
func EncodeDrops(drops []ipsec.DropCount) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	for _, d := range drops {
		ae.Nested(dropRow, func(row *netlink.AttributeEncoder) error {
			row.String(dropReason, d.Reason)
			row.String(dropCounter, d.Counter)
			row.String(dropMeaning, d.Meaning)
			row.Uint64(dropPackets, d.Packets)
			return nil
		})
	}
	return ae.Encode()
}

// DecodeDrops reads it back.
func DecodeDrops(b []byte) ([]ipsec.DropCount, error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, fmt.Errorf("decode drops: %w", err)
	}
	var drops []ipsec.DropCount
	for ad.Next() {
		if ad.Type() == dropRow {
			ad.Nested(func(row *netlink.AttributeDecoder) error {
				drops = append(drops, decodeDrop(row))
				return nil
			})
		}
	}
	if err := ad.Err(); err != nil {
		return nil, fmt.Errorf("decode drops: %w", err)
	}
	return drops, nil
}

func decodeDrop(row *netlink.AttributeDecoder) (d ipsec.DropCount) {
	for row.Next() {
		switch row.Type() {
		case dropReason:
			d.Reason = row.String()
		case dropCounter:
			d.Counter = row.String()
		case dropMeaning:
			d.Meaning = row.String()
		case dropPackets:
			d.Packets = row.Uint64()
		}
	}
	return d
}
