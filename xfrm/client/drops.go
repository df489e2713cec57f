package client

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Drops implements ipsec.Accounting. A device types its drops; the kernel's counters are
// those of /proc/net/xfrm_stat in the calling thread's network namespace, without meanings.
func (c *Client) Drops(ctx context.Context) ([]ipsec.DropCount, error) {
	if _, ok := c.engine.(device); !ok {
		return kernelDrops("/proc/thread-self/net/xfrm_stat")
	}
	q := call{op: "get drops", typ: xfrm.MsgGetDrops}
	replies, err := c.request(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, m := range replies {
		if xfrm.MsgType(m.Header.Type) == xfrm.MsgGetDrops {
			return xfrm.DecodeDrops(m.Data)
		}
	}
	return nil, fmt.Errorf("get drops: %s did not answer", c.name)
}

// kernelDrops reads lines of a name and a number.
func kernelDrops(path string) ([]ipsec.DropCount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's counters: %w (a kernel with CONFIG_XFRM_STATISTICS has them)", err)
	}
	defer f.Close()
	var drops []ipsec.DropCount
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, number, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read the kernel's counters: line %q", lines.Text())
		}
		drops = append(drops, ipsec.DropCount{Reason: name, Counter: name, Packets: n})
	}
	return drops, nil
}
