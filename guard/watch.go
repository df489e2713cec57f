package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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

// retryPause is how long Watch waits before it tries again to put the rules back.
const retryPause = 100 * time.Millisecond

// Watch puts the rules back when someone else removes some, until ctx ends: `nft flush
// ruleset` is the first line of many a firewall's configuration, and would open the guard at
// every reload. report is told: nil once they are back, else why they are not yet. Watch does not
// give up as long as something is to be guarded. Between removal and return lie some
// milliseconds in which only the steering holds.
func (g *Guard) Watch(ctx context.Context, report func(error)) error {
	stop := context.AfterFunc(ctx, func() { g.events.SetReadDeadline(time.Now()) })
	defer stop()
	for {
		msgs, err := g.events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrClosed):
			return err
		case err == nil && !slices.ContainsFunc(msgs, removes):
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			pause(ctx) // not to turn in circles, should it last
		}
		// On an error events were lost: there may be one for us.
		g.restoreUntilDone(ctx, report)
	}
}

// removes reports whether an event takes rules away.
func removes(m netlink.Message) bool {
	switch m.Header.Type {
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE,
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELCHAIN,
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE:
		return true
	}
	return false
}

func (g *Guard) restoreUntilDone(ctx context.Context, report func(error)) {
	for ctx.Err() == nil {
		restored, err := g.restore()
		if restored || err != nil {
			report(err)
		}
		if err == nil {
			return
		}
		pause(ctx)
	}
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryPause):
	}
}

// restore installs again what was in force, if rules are missing. Our own transactions remove
// rules, too, but put others in their place in one go.
func (g *Guard) restore() (restored bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.devices {
		if len(g.own) == 0 && len(d.inherited) == 0 {
			continue
		}
		rules, err := g.conn.countRules(d.name)
		if err != nil {
			return false, fmt.Errorf("guard %s: %w", d.name, err)
		}
		if rules < d.rules {
			return true, g.install(g.own, g.encaps)
		}
	}
	return false, nil
}

// countRules counts the rules in a device's table, 0 if there is none.
func (c *conn) countRules(device string) (int, error) {
	name, n := tableName(device), 0
	msgs, err := c.dump(unix.NFT_MSG_GETRULE, name)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		err := attributes(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_RULE_TABLE && ad.String() == name {
				n++
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}
