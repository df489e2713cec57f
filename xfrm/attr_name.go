package xfrm

import (
	"encoding/binary"
	"fmt"
)

// attrNames are XFRMA_* (uapi linux/xfrm.h), from attribute type 1 on.
var attrNames = [...]string{
	"ALG_AUTH", "ALG_CRYPT", "ALG_COMP", "ENCAP", "TMPL", "SA", "POLICY", "SEC_CTX", "LTIME_VAL", "REPLAY_VAL",
	"REPLAY_THRESH", "ETIMER_THRESH", "SRCADDR", "COADDR", "LASTUSED", "POLICY_TYPE", "MIGRATE", "ALG_AEAD",
	"KMADDRESS", "ALG_AUTH_TRUNC", "MARK", "TFCPAD", "REPLAY_ESN_VAL", "SA_EXTRA_FLAGS", "PROTO", "ADDRESS_FILTER",
	"PAD", "OFFLOAD_DEV", "SET_MARK", "SET_MARK_MASK", "IF_ID", "MTIMER_THRESH", "SA_DIR", "NAT_KEEPALIVE_INTERVAL",
	"SA_PCPU", "IPTFS_DROP_TIME", "IPTFS_REORDER_WINDOW", "IPTFS_DONT_FRAG", "IPTFS_INIT_DELAY", "IPTFS_MAX_QSIZE",
	"IPTFS_PKT_SIZE",
}

// spdAttrNames are XFRMA_SPD_*, of NEWSPDINFO.
var spdAttrNames = [...]string{"SPD_INFO", "SPD_HINFO", "SPD_IPV4_HTHRESH", "SPD_IPV6_HTHRESH"}

func attrName(msg MsgType, typ uint16) string {
	names := attrNames[:]
	if msg == MsgNewSPDInfo {
		names = spdAttrNames[:]
	}
	if typ < 1 || int(typ) > len(names) {
		return fmt.Sprintf("attribute %d", typ)
	}
	return "XFRMA_" + names[typ-1]
}

// fixedSizes are the bytes in front of the attributes of a request.
var fixedSizes = map[MsgType]int{
	MsgNewSA: sizeUsersaInfo, MsgUpdSA: sizeUsersaInfo, MsgDelSA: sizeUsersaID, MsgGetSA: sizeUsersaID,
	MsgNewPolicy: sizePolicyInfo, MsgUpdPolicy: sizePolicyInfo, MsgDelPolicy: sizePolicyID, MsgGetPolicy: sizePolicyID,
	MsgAllocSPI: sizeUserSPIInfo, MsgNewAE: sizeAEventID, MsgGetAE: sizeAEventID, MsgNewSPDInfo: 4,
}

// AttributeAt names the attribute of a request at an offset of the netlink message, header
// included, as NLMSGERR_ATTR_OFFS gives it (uapi linux/netlink.h): "XFRMA_OFFLOAD_DEV". It is ""
// where no attribute is.
func AttributeAt(typ MsgType, payload []byte, offset int) string {
	fixed, known := fixedSizes[typ]
	offset -= headerLen
	if !known {
		return ""
	}
	for at := fixed; at+4 <= len(payload); {
		n := int(binary.NativeEndian.Uint16(payload[at:]))
		if n < 4 {
			return ""
		}
		if at <= offset && offset < at+n {
			return attrName(typ, binary.NativeEndian.Uint16(payload[at+2:])&0x3fff) // without NLA_F_*
		}
		at += (n + 3) &^ 3
	}
	return ""
}
