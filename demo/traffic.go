package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"espalier/internal/inet"
)

const (
	pingTimeout = 2 * time.Second
	pingPayload = 56 // as ping(8)
)

// ping sends count echo requests, one after the answer to the other, and returns the median
// round-trip time.
func ping(ctx context.Context, d direction, count int) (time.Duration, error) {
	var conn *net.IPConn
	err := d.from.ns.Do(func() (err error) {
		network := "ip4:icmp"
		if d.dst.Is6() {
			network = "ip6:ipv6-icmp"
		}
		conn, err = net.DialIP(network, &net.IPAddr{IP: d.src.AsSlice()}, &net.IPAddr{IP: d.dst.AsSlice()})
		return err
	})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	var rtts []time.Duration
	for seq := range count {
		rtt, err := echo(conn, d.dst.Is6(), uint16(seq+1))
		if err != nil {
			return 0, errors.Join(ctx.Err(), err)
		}
		rtts = append(rtts, rtt)
	}
	slices.Sort(rtts)
	return rtts[len(rtts)/2], nil
}

// echo sends one echo request (RFC 792, RFC 4443) and waits for its reply.
func echo(conn *net.IPConn, v6 bool, seq uint16) (time.Duration, error) {
	request, reply := byte(8), byte(0)
	if v6 {
		request, reply = 128, 129
	}
	msg := make([]byte, 8+pingPayload)
	msg[0] = request
	binary.BigEndian.PutUint16(msg[4:], uint16(os.Getpid()))
	binary.BigEndian.PutUint16(msg[6:], seq)
	rand.Read(msg[8:])
	if !v6 { // for ICMPv6 the kernel does it
		binary.BigEndian.PutUint16(msg[2:], inet.Fold(inet.Sum(msg, 0)))
	}
	start := time.Now()
	if err := conn.SetReadDeadline(start.Add(pingTimeout)); err != nil {
		return 0, err
	}
	if _, err := conn.Write(msg); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFromIP(buf) // which takes the IPv4 header off
		if err != nil {
			return 0, fmt.Errorf("no answer to echo request %d: %w", seq, err)
		}
		if n == len(msg) && buf[0] == reply && bytes.Equal(buf[4:n], msg[4:]) {
			return time.Since(start), nil
		}
	}
}

// block is what a transfer repeats. Compared on arrival, it shows that nothing was lost,
// doubled or damaged.
const block = 1 << 20

// transfer sends total bytes by TCP and has the receiver compare them.
func transfer(ctx context.Context, d direction, total int64) error {
	var listener *net.TCPListener
	var conn *net.TCPConn
	err := d.to.ns.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.dst, 0)))
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	data := make([]byte, block)
	rand.Read(data)
	received := make(chan error, 1)
	go func() { received <- receive(ctx, listener, data, total) }()
	err = d.from.ns.Do(func() error {
		var c net.Conn
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: d.src.AsSlice()}, Timeout: pingTimeout}
		c, err := dialer.DialContext(ctx, "tcp", listener.Addr().String())
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	if err != nil {
		listener.Close()
		<-received
		return err
	}
	err = send(ctx, conn, data, total)
	return errors.Join(err, <-received)
}

func send(ctx context.Context, conn *net.TCPConn, data []byte, total int64) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	for left := total; left > 0; left -= block {
		if err := conn.SetWriteDeadline(time.Now().Add(stall)); err != nil {
			return err
		}
		if _, err := conn.Write(data[:min(left, block)]); err != nil {
			return err
		}
	}
	return nil
}

// stall is how long a transfer may stand still before it counts as broken.
const stall = 5 * time.Second

func receive(ctx context.Context, l *net.TCPListener, data []byte, total int64) error {
	conn, err := l.AcceptTCP()
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, block)
	for left := total; left > 0; left -= block {
		if err := conn.SetReadDeadline(time.Now().Add(stall)); err != nil {
			return err
		}
		part := buf[:min(left, block)]
		if n, err := io.ReadFull(conn, part); err != nil {
			return fmt.Errorf("after %d bytes: %w", total-left+int64(n), err)
		}
		if !bytes.Equal(part, data[:len(part)]) {
			return fmt.Errorf("what arrived after %d bytes is not what was sent", total-left)
		}
	}
	if n, err := conn.Read(buf); n != 0 || err != io.EOF {
		return fmt.Errorf("more arrived than the %d bytes sent", total)
	}
	return nil
}
