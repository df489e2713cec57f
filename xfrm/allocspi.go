package xfrm

import ()

// SPIRange is struct xfrm_userspi_info: it asks for an SPI from Min to Max, held by a larval
// state until somebody adds the SA or it expires. Of State these count: addresses, Proto,
// Mode, Reqid, Seq, Mark, IfID, Dir and PCPU.
type SPIRange struct {
	State    *State
	Min, Max uint32
}

// sizeUserSPIInfo is struct xfrm_userspi_info.
const sizeUserSPIInfo = sizeUsersaInfo + 8

// EncodeSPIRange returns the payload of ALLOCSPI. Errors wrap ipsec.ErrInvalid.
func EncodeSPIRange(r *SPIRange) ([]byte, error) {
	p := newPayload(sizeUserSPIInfo)
	s := r.State
	if _, err := putUsersaInfo(p, s); err != nil {
		return nil, err
	}
	host.PutUint32(p[sizeUsersaInfo:], r.Min)
	host.PutUint32(p[sizeUsersaInfo+4:], r.Max)
	putMarkIfID(&p, s.Mark, s.IfID)
	if err := putDir(&p, s.Dir); err != nil {
		return nil, err
	}
	p.optional(attrPCPU, s.PCPU)
	return p, nil
}

// DecodeSPIRange reads the payload of ALLOCSPI. Errors wrap ipsec.ErrInvalid.
func DecodeSPIRange(b []byte) (*SPIRange, error) {
	if err := needHeader("xfrm_userspi_info", b, sizeUserSPIInfo); err != nil {
		return nil, err
	}
	s, family, err := getUsersaInfo(b[:sizeUsersaInfo])
	if err != nil {
		return nil, err
	}
	if _, err := getStateAttrs(s, family, b[sizeUserSPIInfo:]); err != nil {
		return nil, err
	}
	r := &SPIRange{State: s}
	return r, getWords("xfrm_userspi_info", b[sizeUsersaInfo:], &r.Min, &r.Max)
}
