package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchEvents opens a socket that hears of every change to the nftables of the calling
// thread's namespace.
func watchEvents() (*netlink.Conn, error) {
	const group = 1 << (unix.NFNLGRP_NFTABLES - 1)
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: group})
	if err != nil {
		return nil, fmt.Errorf("nftables: open event socket: %w", err)
	}
	return nl, nil
}

// Watch puts the tables back when someone else removes them, until ctx ends: `nft flush
// ruleset` is the first line of many a firewall's configuration, and would open the guard at
// every reload. restored is told of it. Between removal and return lie some milliseconds in which
// only the steering holds.
func (g *Guard) Watch(ctx context.Context, restored func(device string)) error {
	stop := context.AfterFunc(ctx, func() { g.events.SetReadDeadline(time.Now()) })
	defer stop()
	for {
		msgs, err := g.events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // events were lost: there may be one for us
		case errors.Is(err, os.ErrClosed):
			return err
		case err != nil:
			return fmt.Errorf("guard: watch nftables: %w", err)
		case !removesTable(msgs):
			continue
		}
		if err := g.restore(restored); err != nil {
			return err
		}
	}
}

func removesTable(msgs []netlink.Message) bool {
	for _, m := range msgs {
		if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE {
			return true
		}
	}
	return false
}

// restore installs again what was in force, if a table is missing. Our own transactions
// delete tables, too, but put them back in one go.
func (g *Guard) restore(restored func(device string)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	missing := ""
	for _, d := range g.devices {
		there, err := g.conn.hasTable(d.name)
		if err != nil {
			return fmt.Errorf("guard %s: %w", d.name, err)
		}
		if !there && (len(g.own) > 0 || len(d.inherited) > 0) {
			missing = d.name
		}
	}
	if missing == "" {
		return nil
	}
	if err := g.install(g.own, g.encaps); err != nil {
		return err
	}
	restored(missing)
	return nil
}

func (c *conn) hasTable(device string) (bool, error) {
	name := tableName(device)
	_, err := c.ask(&request{kind: unix.NFT_MSG_GETTABLE, flags: netlink.Acknowledge, what: "table " + name, attrs: func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, name)
	}})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}
