package probe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of linux/devlink.h.
const (
	devlinkGet        = 1
	devlinkPortGet    = 5
	devlinkEswitchGet = 29

	devlinkAttrBus          = 1
	devlinkAttrDevice       = 2
	devlinkAttrPortIndex    = 3
	devlinkAttrNetdevName   = 7
	devlinkAttrEswitchMode  = 25
	devlinkAttrPortFlavour  = 77
	devlinkAttrPortPF       = 127
	devlinkAttrPortVF       = 128
	devlinkAttrPortFunction = 145
	devlinkAttrPortSF       = 164

	devlinkFunctionCaps = 4 // a nla_bitfield32: values, and which of them count

	devlinkCapIPsecCrypto = 1 << 2
	devlinkCapIPsecPacket = 1 << 3
)

// genlHeader is the size of struct genlmsghdr: command, version, two reserved bytes.
const genlHeader = 4

// Devlink lists devices, their e-switches and ports. A kernel without devlink has none.
func (kernelNetwork) Devlink() ([]Devlink, error) {
	c, err := netlink.Dial(unix.NETLINK_GENERIC, nil)
	if err != nil {
		return nil, fmt.Errorf("ask devlink: %w", err)
	}
	defer c.Close()
	g := generic{conn: c}
	if g.family, err = g.find("devlink"); errors.Is(err, unix.ENOENT) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("ask devlink: %w", err)
	}
	msgs, err := g.execute(devlinkGet, netlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("list devlink devices: %w", err)
	}
	var devices []Devlink
	for _, m := range msgs {
		d, err := decodeDevlink(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list devlink devices: %w", err)
		}
		d.Eswitch, err = g.eswitch(d)
		if d.Denied = errors.Is(err, unix.EPERM); err != nil && !d.Denied { // the ports are worth reading all the same
			return nil, fmt.Errorf("ask devlink for the e-switch of %s/%s: %w", d.Bus, d.Device, err)
		}
		devices = append(devices, d)
	}
	msgs, err = g.execute(devlinkPortGet, netlink.Dump, nil)
	if err != nil {
		return nil, fmt.Errorf("list devlink ports: %w", err)
	}
	for _, m := range msgs {
		of, port, err := decodeDevlinkPort(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list devlink ports: %w", err)
		}
		for i := range devices {
			if devices[i].Bus == of.Bus && devices[i].Device == of.Device {
				devices[i].Ports = append(devices[i].Ports, port)
			}
		}
	}
	return devices, nil
}

// generic speaks to a family of generic netlink (linux/genetlink.h).
type generic struct {
	conn   *netlink.Conn
	family netlink.HeaderType
}

func (g *generic) find(name string) (netlink.HeaderType, error) {
	control := generic{conn: g.conn, family: unix.GENL_ID_CTRL}
	msgs, err := control.execute(unix.CTRL_CMD_GETFAMILY, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.CTRL_ATTR_FAMILY_NAME, name)
	})
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		ad, err := behind(m.Data, genlHeader)
		if err != nil {
			return 0, err
		}
		for ad.Next() {
			if ad.Type() == unix.CTRL_ATTR_FAMILY_ID {
				return netlink.HeaderType(ad.Uint16()), ad.Err()
			}
		}
	}
	return 0, unix.ENOENT
}

func (g *generic) execute(command uint8, flags netlink.HeaderFlags, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	data, err := payload([]byte{command, 1, 0, 0}, attrs)
	if err != nil {
		return nil, err
	}
	return g.conn.Execute(netlink.Message{Header: netlink.Header{Type: g.family, Flags: netlink.Request | flags}, Data: data})
}

// eswitch is "" for a device without one. It takes CAP_NET_ADMIN.
func (g *generic) eswitch(d Devlink) (string, error) {
	msgs, err := g.execute(devlinkEswitchGet, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(devlinkAttrBus, d.Bus)
		ae.String(devlinkAttrDevice, d.Device)
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, m := range msgs {
		ad, err := behind(m.Data, genlHeader)
		if err != nil {
			return "", err
		}
		for ad.Next() {
			if ad.Type() == devlinkAttrEswitchMode {
				return eswitchMode(ad.Uint16()), ad.Err()
			}
		}
	}
	return "", nil
}

// enum devlink_eswitch_mode.
func eswitchMode(n uint16) string {
	switch n {
	case 0:
		return "legacy"
	case 1:
		return "switchdev"
	}
	return fmt.Sprintf("mode %d", n)
}

func decodeDevlink(data []byte) (Devlink, error) {
	var d Devlink
	ad, err := behind(data, genlHeader)
	if err != nil {
		return d, err
	}
	for ad.Next() {
		switch ad.Type() {
		case devlinkAttrBus:
			d.Bus = ad.String()
		case devlinkAttrDevice:
			d.Device = ad.String()
		}
	}
	return d, ad.Err()
}

// enum devlink_port_flavour, named as by `devlink port show`.
var devlinkFlavours = [...]string{"physical", "cpu", "dsa", "pcipf", "pcivf", "virtual", "unused", "pcisf"}

func decodeDevlinkPort(data []byte) (of Devlink, p DevlinkPort, err error) {
	if of, err = decodeDevlink(data); err != nil {
		return of, p, err
	}
	ad, err := behind(data, genlHeader)
	if err != nil {
		return of, p, err
	}
	for ad.Next() {
		switch ad.Type() {
		case devlinkAttrPortIndex:
			p.Index = ad.Uint32()
		case devlinkAttrNetdevName:
			p.Device = ad.String()
		case devlinkAttrPortFlavour:
			if n := ad.Uint16(); int(n) < len(devlinkFlavours) {
				p.Flavour = devlinkFlavours[n]
			}
		case devlinkAttrPortPF:
			p.PF = ad.Uint16()
		case devlinkAttrPortVF:
			p.VF = ad.Uint16()
		case devlinkAttrPortSF:
			p.SF = ad.Uint32()
		case devlinkAttrPortFunction:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					if b := ad.Bytes(); ad.Type() == devlinkFunctionCaps && len(b) >= 8 {
						values, known := binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])
						p.IPsecCrypto = capability(values, known, devlinkCapIPsecCrypto)
						p.IPsecPacket = capability(values, known, devlinkCapIPsecPacket)
					}
				}
				return nil
			})
		}
	}
	return of, p, ad.Err()
}

func capability(values, known, bit uint32) Answer {
	switch {
	case known&bit == 0:
		return Unknown
	case values&bit != 0:
		return Yes
	}
	return No
}
