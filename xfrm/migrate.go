package xfrm

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Migration is the message MIGRATE: templates and SAs of one policy get new addresses.
type Migration struct {
	ID    PolicyID
	Moves []Move
	KM    *KMAddress
	Encap *EncapTmpl
	// Offload is where the moved SAs go.
	Offload *Offload
}

// Move is struct xfrm_user_migrate.
type Move struct {
	OldSrc, OldDst netip.Addr
	NewSrc, NewDst netip.Addr
	Proto          uint8
	Mode           Mode
	Reqid          uint32
}

// KMAddress is struct xfrm_user_kmaddress: the addresses key managers speak between.
type KMAddress struct {
	Local, Remote netip.Addr
}

const (
	sizeMove      = 76
	sizeKMAddress = 40
)

// EncodeMigration returns the payload of MIGRATE. Errors wrap ipsec.ErrInvalid.
func EncodeMigration(m *Migration) ([]byte, error) {
	p := newPayload(sizePolicyID)
	if err := putPolicyID(p, &m.ID); err != nil {
		return nil, err
	}
	if m.KM != nil {
		family, err := addrFamily(m.KM.Local, m.KM.Remote)
		if err != nil {
			return nil, err
		}
		km := p.attr(attrKMAddress, sizeKMAddress)
		putAddr(km[0:], m.KM.Local)
		putAddr(km[16:], m.KM.Remote)
		host.PutUint16(km[36:], family)
	}
	var encapFamily uint16
	var moves []byte
	for i := range m.Moves {
		move, family, err := moveBytes(&m.Moves[i])
		if err != nil {
			return nil, err
		}
		moves, encapFamily = append(moves, move...), family
	}
	if len(m.Moves) > maxTmpls {
		return nil, invalid("%d moves: at most %d", len(m.Moves), maxTmpls)
	}
	if err := putEncap(&p, m.Encap, encapFamily); err != nil {
		return nil, err
	}
	putPolicyType(&p, m.ID.Type)
	if len(moves) > 0 {
		p.bytes(attrMigrate, moves)
	}
	putMarkIfID(&p, m.ID.Mark, m.ID.IfID)
	if err := putSecCtx(&p, m.ID.SecCtx); err != nil {
		return nil, err
	}
	putOffload(&p, m.Offload)
	return p, nil
}

func moveBytes(m *Move) ([]byte, uint16, error) {
	old, err := addrFamily(m.OldSrc, m.OldDst)
	if err != nil {
		return nil, 0, err
	}
	now, err := addrFamily(m.NewSrc, m.NewDst)
	if err != nil {
		return nil, 0, err
	}
	b := make([]byte, sizeMove)
	putAddr(b[0:], m.OldDst)
	putAddr(b[16:], m.OldSrc)
	putAddr(b[32:], m.NewDst)
	putAddr(b[48:], m.NewSrc)
	b[64], b[65] = m.Proto, uint8(m.Mode)
	host.PutUint32(b[68:], m.Reqid)
	host.PutUint16(b[72:], old)
	host.PutUint16(b[74:], now)
	return b, now, nil
}

// DecodeMigration reads the payload of MIGRATE. Errors wrap ipsec.ErrInvalid.
func DecodeMigration(b []byte) (*Migration, error) {
	id, err := DecodePolicyID(b)
	if err != nil {
		return nil, err
	}
	m := &Migration{ID: id}
	var encap []byte
	err = eachAttr(b[sizePolicyID:], func(typ uint16, data []byte) (err error) {
		switch typ {
		case attrMigrate:
			m.Moves, err = getMoves(data)
		case attrKMAddress:
			m.KM, err = getKMAddress(data)
		case attrEncap:
			encap = data
		case attrOffload:
			m.Offload, err = getOffload(data)
		}
		return err
	})
	if err == nil && encap != nil {
		family := uint16(unix.AF_UNSPEC)
		if n := len(m.Moves); n > 0 {
			family, _ = addrFamily(m.Moves[n-1].NewDst)
		}
		m.Encap, err = getEncap(encap, family)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func getMoves(data []byte) ([]Move, error) {
	if len(data)%sizeMove != 0 || len(data) > sizeMove*maxTmpls {
		return nil, invalid("XFRMA_MIGRATE: %d bytes are not 0 to %d moves", len(data), maxTmpls)
	}
	var moves []Move
	for ; len(data) > 0; data = data[sizeMove:] {
		old, now := host.Uint16(data[72:]), host.Uint16(data[74:])
		if err := checkFamily(old); err != nil {
			return nil, err
		}
		if err := checkFamily(now); err != nil {
			return nil, err
		}
		moves = append(moves, Move{
			OldDst: getAddr(data[0:16], old), OldSrc: getAddr(data[16:32], old),
			NewDst: getAddr(data[32:48], now), NewSrc: getAddr(data[48:64], now),
			Proto: data[64], Mode: Mode(data[65]), Reqid: host.Uint32(data[68:]),
		})
	}
	return moves, nil
}

func getKMAddress(data []byte) (*KMAddress, error) {
	if err := need("XFRMA_KMADDRESS", data, sizeKMAddress); err != nil {
		return nil, err
	}
	family := host.Uint16(data[36:])
	if err := checkFamily(family); err != nil {
		return nil, err
	}
	return &KMAddress{Local: getAddr(data[0:16], family), Remote: getAddr(data[16:32], family)}, nil
}
