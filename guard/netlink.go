package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// conn speaks nfnetlink (linux/netfilter/nf_tables.h) for the namespace it was dialled in.
// The library's own connection asks for every rule to be echoed and so fails, with the
// rules in force, once the echoes outgrow the socket: a thousand rules are enough.
type conn struct{ nl *netlink.Conn }

// replyTimeout is a safety net: the kernel has answered when a request's send returns.
const replyTimeout = 10 * time.Second

func dial() (*conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("nftables: open netlink socket: %w", err)
	}
	// Without it only the kernel's words for an error are missing.
	_ = nl.SetOption(netlink.ExtendedAcknowledge, true)
	return &conn{nl: nl}, nil
}

func (c *conn) close() error { return c.nl.Close() }

// request is one nf_tables message.
type request struct {
	family uint8  // NFPROTO_*
	kind   uint16 // NFT_MSG_*
	flags  netlink.HeaderFlags
	what   string // for a person, if it is refused
	attrs  func(*netlink.AttributeEncoder)
}

func (r *request) message() (netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	if r.attrs != nil {
		r.attrs(ae)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, fmt.Errorf("nftables: encode %s: %w", r.what, err)
	}
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | r.kind),
			Flags: netlink.Request | r.flags,
		},
		Data: append(nfgenmsg(r.family, 0), attrs...),
	}, nil
}

// nfgenmsg is the header of every nfnetlink message (linux/netfilter/nfnetlink.h).
func nfgenmsg(family uint8, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// commit carries out all requests or none of them.
func (c *conn) commit(requests []request) error {
	bound := func(kind netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: kind, Flags: netlink.Request},
			Data:   nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	msgs := []netlink.Message{bound(unix.NFNL_MSG_BATCH_BEGIN)}
	size := 0
	for i := range requests {
		m, err := requests[i].message()
		if err != nil {
			return err
		}
		if i == len(requests)-1 {
			// The acknowledgements come in order once all is done: one, for the last, will do.
			m.Header.Flags |= netlink.Acknowledge
		}
		size += unix.NLMSG_HDRLEN + len(m.Data)
		msgs = append(msgs, m)
	}
	msgs = append(msgs, bound(unix.NFNL_MSG_BATCH_END))
	if err := c.prepare(size); err != nil {
		return err
	}
	msgs, err := c.nl.SendMessages(msgs)
	if err != nil {
		return fmt.Errorf("nftables: send transaction of %d bytes: %w", size, err)
	}
	for {
		replies, err := c.nl.Receive()
		if err != nil {
			return refused(requests, msgs, err)
		}
		for _, r := range replies {
			if r.Header.Type == netlink.Error && r.Header.Sequence == msgs[len(requests)].Header.Sequence {
				return nil
			}
		}
	}
}

// prepare makes room for a transaction of this size, which must leave in one piece, and
// throws away what was not read of an earlier, refused one.
func (c *conn) prepare(size int) error {
	const headroom = 64 << 10 // the socket counts its bookkeeping too
	have, err := c.nl.WriteBuffer()
	if err == nil && have < size+headroom {
		err = c.nl.SetWriteBuffer(size + headroom)
	}
	if err != nil {
		return fmt.Errorf("nftables: room for %d bytes: %w", size, err)
	}
	return c.drain()
}

func (c *conn) drain() error {
	raw, err := c.nl.SyscallConn()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	var one [1]byte
	err = raw.Control(func(fd uintptr) {
		for {
			_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_DONTWAIT)
			if err != nil && err != unix.EINTR && err != unix.ENOBUFS {
				return
			}
		}
	})
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return c.nl.SetReadDeadline(time.Now().Add(replyTimeout))
}

// refused says which request of a transaction the kernel did not take, in its words.
func refused(requests []request, msgs []netlink.Message, err error) error {
	what, hint := "transaction", ""
	var kind uint16
	if op := (*netlink.OpError)(nil); errors.As(err, &op) && op.Sequence != 0 {
		for i := range requests {
			if msgs[i+1].Header.Sequence == op.Sequence {
				what, kind = requests[i].what, requests[i].kind
			}
		}
		if op.Message != "" {
			err = fmt.Errorf("%w: %s", op.Err, op.Message)
		} else {
			err = op.Err
		}
	}
	switch {
	case errors.Is(err, unix.EPERM):
		hint = ": it takes CAP_NET_ADMIN, and a table no other program owns"
	case errors.Is(err, unix.EOPNOTSUPP) && kind == unix.NFT_MSG_NEWCHAIN:
		hint = ": egress hooks need Linux 5.16 with CONFIG_NETFILTER_EGRESS"
	case errors.Is(err, unix.ENOENT) && kind == unix.NFT_MSG_NEWCHAIN:
		hint = ": is the device still there?"
	}
	return fmt.Errorf("nftables: %s: %w%s", what, err, hint)
}

// dump lists the objects of a table.
func (c *conn) dump(kind uint16, t table) ([]netlink.Message, error) {
	r := request{family: t.family, kind: kind, flags: netlink.Dump, what: t.String(), attrs: func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, t.name) // NFTA_OBJ_TABLE has the same number
	}}
	return c.ask(&r)
}

func (c *conn) ask(r *request) ([]netlink.Message, error) {
	m, err := r.message()
	if err != nil {
		return nil, err
	}
	if err := c.drain(); err != nil {
		return nil, err
	}
	replies, err := c.nl.Execute(m)
	if err != nil {
		return nil, fmt.Errorf("nftables: read %s: %w", r.what, err)
	}
	return replies, nil
}

// unchanged repeats read until no transaction came in between: a dump takes several
// messages, and an interrupted one would silently lack rules.
func (c *conn) unchanged(read func() error) error {
	for range 100 {
		before, err := c.generation()
		if err != nil {
			return err
		}
		if err := read(); err != nil {
			return err
		}
		after, err := c.generation()
		if err != nil {
			return err
		}
		if before == after {
			return nil
		}
	}
	return errors.New("nftables: rules change faster than they can be read")
}

func (c *conn) generation() (uint32, error) {
	replies, err := c.ask(&request{family: unix.NFPROTO_UNSPEC, kind: unix.NFT_MSG_GETGEN, what: "generation"})
	if err != nil {
		return 0, err
	}
	var id uint32
	for _, m := range replies {
		err = attributes(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_GEN_ID {
				id = ad.Uint32()
			}
		})
	}
	return id, err
}

// attributes calls each for every attribute of a message.
func attributes(m netlink.Message, each func(*netlink.AttributeDecoder)) error {
	const headerLen = 4 // nfgenmsg
	if len(m.Data) < headerLen {
		return errors.New("nftables: reply without header")
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[headerLen:])
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		each(ad)
	}
	return ad.Err()
}

// encodeExpressions is the body of NFTA_RULE_EXPRESSIONS.
func encodeExpressions(ae *netlink.AttributeEncoder, family uint8, m match) error {
	for _, e := range m {
		b, err := expr.Marshal(family, e)
		if err != nil {
			return err
		}
		ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, b)
	}
	return nil
}
