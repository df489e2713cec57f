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
	_ = nl.SetReadBuffer(eventBuffer) // best effort: what is lost is made up for
	return nl, nil
}

// eventBuffer has room, in bytes, for the events of some thousand policies that are added at once.
const eventBuffer = 4 << 20

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
		case err == nil && !slices.ContainsFunc(msgs, g.removes):
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			pause(ctx) // not to turn in circles, should it last
		}
		// On an error events were lost: there may be one for us.
		g.restoreUntilDone(ctx, report)
	}
}

// removes reports whether by an event somebody else takes rules or elements away, perhaps of ours. Our own
// transactions take some, too, but put others in their place in one go, or are done with them.
func (g *Guard) removes(m netlink.Message) bool {
	switch m.Header.Type {
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM,
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE,
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELCHAIN,
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE:
		return m.Header.PID != g.conn.nl.PID() && len(m.Data) > 0 && m.Data[0] == unix.NFPROTO_NETDEV // nfgenmsg: as deviceTable
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

// restore installs again what was in force, if rules or elements are missing.
func (g *Guard) restore() (restored bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.devices {
		if len(g.own) == 0 && len(d.inherited) == 0 {
			continue
		}
		complete, err := d.complete(g.conn)
		if err != nil {
			return false, fmt.Errorf("guard %s: %w", d.name, err)
		}
		if !complete {
			return true, g.install()
		}
	}
	return false, nil
}

// complete reports whether a device's table holds all it is to hold.
func (d *device) complete(c *conn) (bool, error) {
	rules, err := c.countRules(d.name)
	if err != nil || rules < d.found || d.layout == nil {
		return rules >= d.found, err
	}
	complete := true
	d.layout.sets(func(s *set) {
		if err != nil || !complete {
			return
		}
		var elements []string
		elements, err = c.readElements(deviceTable(d.name), s.name)
		complete = len(elements) >= len(s.members)
	})
	return complete, err
}

// countRules counts the rules in a device's table, 0 if there is none.
func (c *conn) countRules(device string) (int, error) {
	t, n := deviceTable(device), 0
	msgs, err := c.dump(unix.NFT_MSG_GETRULE, t)
	if err != nil {
		return 0, err
	}
	for _, m := range msgs {
		err := attributes(m, func(ad *netlink.AttributeDecoder) {
			if ad.Type() == unix.NFTA_RULE_TABLE && ad.String() == t.name {
				n++
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}
