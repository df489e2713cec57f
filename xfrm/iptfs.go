package xfrm

// IPTFS holds what belongs to ModeIPTFS (RFC 9347): XFRMA_IPTFS_*. nil is not set.
type IPTFS struct {
	DropTime      *uint32 // inbound: microseconds to wait for a missing packet
	ReorderWindow *uint16 // inbound: packets
	DontFragment  bool    // outbound
	InitDelay     *uint32 // outbound: microseconds before the first packet
	MaxQueue      *uint32 // outbound: bytes
	PacketSize    *uint32 // outbound: bytes; 0 is the path MTU
}

func putIPTFS(p *payload, t *IPTFS) {
	if t == nil {
		return
	}
	p.optional(attrIPTFSDropTime, t.DropTime)
	if t.ReorderWindow != nil {
		p.uint16(attrIPTFSReorderWindow, *t.ReorderWindow)
	}
	if t.DontFragment {
		p.attr(attrIPTFSDontFragment, 0)
	}
	p.optional(attrIPTFSInitDelay, t.InitDelay)
	p.optional(attrIPTFSMaxQueue, t.MaxQueue)
	p.optional(attrIPTFSPacketSize, t.PacketSize)
}

func getIPTFS(s *State, typ uint16, data []byte) (err error) {
	if s.IPTFS == nil {
		s.IPTFS = &IPTFS{}
	}
	t := s.IPTFS
	switch typ {
	case attrIPTFSDropTime:
		t.DropTime, err = getOptionalUint32("XFRMA_IPTFS_DROP_TIME", data)
	case attrIPTFSReorderWindow:
		if err = need("XFRMA_IPTFS_REORDER_WINDOW", data, 2); err == nil {
			v := host.Uint16(data)
			t.ReorderWindow = &v
		}
	case attrIPTFSDontFragment:
		t.DontFragment = true
	case attrIPTFSInitDelay:
		t.InitDelay, err = getOptionalUint32("XFRMA_IPTFS_INIT_DELAY", data)
	case attrIPTFSMaxQueue:
		t.MaxQueue, err = getOptionalUint32("XFRMA_IPTFS_MAX_QSIZE", data)
	case attrIPTFSPacketSize:
		t.PacketSize, err = getOptionalUint32("XFRMA_IPTFS_PKT_SIZE", data)
	}
	return err
}
