package xfrm

// DecodeSADInfo reads the payload of NEWSADINFO. Errors wrap ipsec.ErrInvalid.
func DecodeSADInfo(b []byte) (SADInfo, error) {
	var i SADInfo
	if err := needHeader("flags", b, 4); err != nil {
		return i, err
	}
	err := eachAttr(b[4:], func(typ uint16, data []byte) error {
		switch typ {
		case attrSADCount:
			return getWords("XFRMA_SAD_CNT", data, &i.Count)
		case attrSADHash:
			return getWords("XFRMA_SAD_HINFO", data, &i.HashBuckets, &i.HashMax)
		}
		return nil
	})
	return i, err
}

// DecodeSPDInfo reads the payload of NEWSPDINFO. Errors wrap ipsec.ErrInvalid.
func DecodeSPDInfo(b []byte) (SPDInfo, error) {
	var i SPDInfo
	if err := needHeader("flags", b, 4); err != nil {
		return i, err
	}
	err := eachAttr(b[4:], func(typ uint16, data []byte) error {
		switch typ {
		case attrSPDInfo:
			return getWords("XFRMA_SPD_INFO", data, &i.In, &i.Out, &i.Fwd, &i.SocketIn, &i.SocketOut, &i.SocketFwd)
		case attrSPDHash:
			return getWords("XFRMA_SPD_HINFO", data, &i.HashBuckets, &i.HashMax)
		case attrSPDThresh4:
			return getThreshold("XFRMA_SPD_IPV4_HTHRESH", data, &i.IPv4)
		case attrSPDThresh6:
			return getThreshold("XFRMA_SPD_IPV6_HTHRESH", data, &i.IPv6)
		}
		return nil
	})
	return i, err
}

func getThreshold(name string, data []byte, to **Threshold) error {
	if err := need(name, data, 2); err != nil {
		return err
	}
	*to = &Threshold{Local: data[0], Remote: data[1]}
	return nil
}

// getWords reads numbers in host byte order.
func getWords(name string, data []byte, to ...*uint32) error {
	if err := need(name, data, 4*len(to)); err != nil {
		return err
	}
	for i, p := range to {
		*p = host.Uint32(data[4*i:])
	}
	return nil
}
