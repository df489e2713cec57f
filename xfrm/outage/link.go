package outage

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// link is the state of a network device.
type link struct {
	name        string
	up, carrier bool // IFF_UP, IFF_LOWER_UP
}

// linkMessage is RTM_NEWLINK or RTM_DELLINK.
type linkMessage struct {
	index int
	link
	gone bool
}

// decodeLink reads a message of NETLINK_ROUTE. ok is false for what does not tell of a device
// itself: bridges send messages of the same types about their ports.
func decodeLink(m netlink.Message) (l linkMessage, ok bool, err error) {
	if m.Header.Type != unix.RTM_NEWLINK && m.Header.Type != unix.RTM_DELLINK {
		return l, false, nil
	}
	if len(m.Data) < unix.SizeofIfInfomsg {
		return l, false, fmt.Errorf("a link message of %d bytes: %w", len(m.Data), ipsec.ErrInvalid)
	}
	if m.Data[0] != unix.AF_UNSPEC {
		return l, false, nil
	}
	flags := binary.NativeEndian.Uint32(m.Data[8:])
	l.index = int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
	l.up, l.carrier = flags&unix.IFF_UP != 0, flags&unix.IFF_LOWER_UP != 0
	l.gone = m.Header.Type == unix.RTM_DELLINK
	attrs, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return l, false, fmt.Errorf("a link message: %w", err)
	}
	for attrs.Next() {
		if attrs.Type() == unix.IFLA_IFNAME {
			l.name = attrs.String()
		}
	}
	if err := attrs.Err(); err != nil {
		return l, false, fmt.Errorf("a link message: %w", err)
	}
	return l, true, nil
}

// linkDump asks for all links, each of which is answered by a RTM_NEWLINK.
func linkDump() netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofIfInfomsg),
	}
}
