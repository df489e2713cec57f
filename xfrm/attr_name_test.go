package xfrm

import "testing"

func TestAttributeAt(t *testing.T) {
	s := plainState(t, 1, func(s *State) {
		s.Offload = &Offload{Ifindex: 4}
		s.Dir = StateDirOut
		s.Mark = &Mark{1, 1}
	})
	payload := mustEncode(t, s)
	found := map[string]int{}
	for offset := range headerLen + len(payload) + 8 {
		if name := AttributeAt(MsgNewSA, payload, offset); name != "" {
			if _, ok := found[name]; !ok {
				found[name] = offset
			}
		}
	}
	for _, name := range []string{"XFRMA_ALG_AEAD", "XFRMA_OFFLOAD_DEV", "XFRMA_SA_DIR", "XFRMA_MARK"} {
		if found[name] < headerLen+sizeUsersaInfo {
			t.Errorf("%s is at %d", name, found[name])
		}
		delete(found, name)
	}
	if len(found) != 0 {
		t.Errorf("also found %v", found)
	}
	for offset := range headerLen + sizeUsersaInfo {
		if name := AttributeAt(MsgNewSA, payload, offset); name != "" {
			t.Errorf("the struct is %s at %d", name, offset)
		}
	}
	threshold, err := EncodeThresholds(Thresholds{IPv6: &Threshold{Local: 1, Remote: 2}})
	if name := AttributeAt(MsgNewSPDInfo, threshold, headerLen+4); err != nil || name != "XFRMA_SPD_IPV6_HTHRESH" {
		t.Errorf("threshold: %q, %v", name, err)
	}
	if name := AttributeAt(MsgNewSA, append(make([]byte, sizeUsersaInfo), 4, 0, 200, 0), headerLen+sizeUsersaInfo); name != "attribute 200" {
		t.Errorf("unknown: %q", name)
	}
	if name := AttributeAt(MsgNewSA, append(make([]byte, sizeUsersaInfo), 0, 0, 1, 0), headerLen+sizeUsersaInfo); name != "" {
		t.Errorf("empty: %q", name)
	}
}

// The names stand in the place of their numbers.
func TestAttrNames(t *testing.T) {
	for typ, want := range map[uint16]string{
		attrAlgAuth: "XFRMA_ALG_AUTH", attrTmpl: "XFRMA_TMPL", attrSrcAddr: "XFRMA_SRCADDR", attrAEAD: "XFRMA_ALG_AEAD",
		attrMark: "XFRMA_MARK", attrPad: "XFRMA_PAD", attrOffload: "XFRMA_OFFLOAD_DEV", attrIfID: "XFRMA_IF_ID",
		attrSADir: "XFRMA_SA_DIR", attrPCPU: "XFRMA_SA_PCPU", attrIPTFSPacketSize: "XFRMA_IPTFS_PKT_SIZE",
	} {
		if got := attrName(MsgNewSA, typ); got != want {
			t.Errorf("%d: %s, want %s", typ, got, want)
		}
	}
}
