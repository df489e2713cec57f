package wireguard

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"espalier/test/bench/device/hosts"
	"espalier/test/lab"
)

// The addresses inside of the tunnel.
var (
	A = netip.MustParseAddr("10.7.0.1")
	B = netip.MustParseAddr("10.7.0.2")
)

const (
	port = 51820

	// mtu is the most that fits the cable's 1500 bytes over IPv4: 20 of IP, 8 of UDP, 32 of
	// WireGuard. The usual 1420 leaves room for IPv6, but would cut datagrams of 1400 bytes in two.
	mtu = 1440

	sockets = "/var/run/wireguard" // wireguard-go knows no other place
)

// Start runs the program on both hosts and joins them by a tunnel between their IPv4 addresses. The
// tunnel's devices, and so their sockets, are called after this process.
func Start(ctx context.Context, p *hosts.Pair, program string) (both []*hosts.Process, err error) {
	type side struct {
		*hosts.Host
		device          string
		key             *ecdh.PrivateKey
		inner, underlay netip.Addr
	}
	sides := []side{{Host: p.A, inner: A, underlay: lab.A4}, {Host: p.B, inner: B, underlay: lab.B4}}
	for i := range sides {
		s := &sides[i]
		s.device = fmt.Sprintf("wg%d%s", os.Getpid(), strings.ToLower(s.Name))
		if s.key, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
		process, err := s.Launch(ctx, "", program, "-f", s.device)
		if err != nil {
			return nil, err
		}
		both = append(both, process)
	}
	for i, s := range sides {
		peer := sides[1-i]
		config := fmt.Sprintf("set=1\nprivate_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%s:%d\nallowed_ip=%s/32\n\n",
			s.key.Bytes(), port, peer.key.PublicKey().Bytes(), peer.underlay, port, peer.inner)
		if err := configure(ctx, s.device, config); err != nil {
			return nil, fmt.Errorf("wireguard-go on host %s: %w: %s", s.Name, err, both[i].Said())
		}
		if err := s.SetUp(ctx, s.device, netip.PrefixFrom(s.inner, 24), mtu); err != nil {
			return nil, err
		}
	}
	return both, nil
}

// configure sends a request of the cross-platform interface (https://www.wireguard.com/xplatform/)
// once the device listens.
func configure(ctx context.Context, device, request string) error {
	const patience = 10 * time.Second
	var conn net.Conn
	for until := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if conn, err = net.Dial("unix", socket(device)); err == nil {
			break
		}
		if err := errors.Join(err, context.Cause(ctx)); time.Now().After(until) || ctx.Err() != nil {
			return err
		}
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	var answer [256]byte
	n, err := conn.Read(answer[:])
	if err != nil {
		return err
	}
	if said := strings.TrimSpace(string(answer[:n])); said != "errno=0" {
		return fmt.Errorf("it refuses its configuration: %s", said)
	}
	return nil
}

func socket(device string) string { return filepath.Join(sockets, device+".sock") }

// Clean removes what this process's devices have left where they had to be killed.
func Clean() {
	for _, host := range []string{"a", "b"} {
		os.Remove(socket(fmt.Sprintf("wg%d%s", os.Getpid(), host)))
	}
}
