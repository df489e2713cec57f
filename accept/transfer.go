package accept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"espalier/remote"
)

// receiveQuestion asks for one TCP connection to be taken, and everything in it.
type receiveQuestion struct {
	At   netip.Addr `json:"at"`
	Port uint16     `json:"port"` // 0 is any
	From netip.Addr `json:"from"` // others are not let in
	Tool string     `json:"tool"` // iperf3; "" is espalier's own
}

// sendQuestion asks for bytes to be sent for a while.
type sendQuestion struct {
	From netip.Addr     `json:"from"`
	To   netip.AddrPort `json:"to"`
	For  time.Duration  `json:"for"`
	Pace int            `json:"pace,omitempty"` // bytes a second; 0 is as fast as it goes
	Tool string         `json:"tool"`
}

// Transfer is what one end of a TCP connection saw.
type Transfer struct {
	Bytes   int64         `json:"bytes"`
	Took    time.Duration `json:"took"`    // nanoseconds
	Longest time.Duration `json:"longest"` // without a byte arriving; nanoseconds; 0 is not known
}

// Gbit is the throughput in Gb/s.
func (t Transfer) Gbit() float64 {
	if t.Took <= 0 {
		return 0
	}
	return float64(t.Bytes) * 8 / t.Took.Seconds() / 1e9
}

const (
	connectPatience = 10 * time.Second // TCP tries again after 1, 3 and 7 seconds
	stallPatience   = 20 * time.Second // without a byte: the path is dead
	listening       = "listening "     // the port follows
	sendingNow      = "sending"        // the connection is there
)

// receive takes one connection and reads it to its end. It says the port it listens on.
func receive(ctx context.Context, q receiveQuestion, say remote.Progress) (t Transfer, err error) {
	if q.Tool == iperf3 {
		return receiveByIperf(ctx, q, say)
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(q.At, q.Port).String())
	if err != nil {
		return t, err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	say(listening + strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	c, err := acceptFrom(l, q.From)
	if err != nil {
		return t, errors.Join(context.Cause(ctx), err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	return drain(c)
}

// acceptFrom turns everybody else away.
func acceptFrom(l net.Listener, from netip.Addr) (net.Conn, error) {
	for {
		c, err := l.Accept()
		if err != nil {
			return nil, err
		}
		if c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap() == from {
			return c, nil
		}
		c.Close()
	}
}

// drain reads to the end.
func drain(c net.Conn) (t Transfer, err error) {
	buffer := make([]byte, 256<<10)
	start := time.Now()
	last := start
	for {
		c.SetReadDeadline(last.Add(stallPatience))
		n, err := c.Read(buffer)
		now := time.Now()
		t.Bytes += int64(n)
		t.Longest = max(t.Longest, now.Sub(last))
		last = now
		if err != nil {
			t.Took = now.Sub(start)
			switch {
			case errors.Is(err, io.EOF):
				return t, nil
			case errors.Is(err, os.ErrDeadlineExceeded):
				return t, fmt.Errorf("nothing has arrived for %s, after %d bytes", stallPatience, t.Bytes)
			}
			return t, err
		}
	}
}

// send connects and sends for the time asked for. When ctx ends before, that is the end, and no
// error: who asks may not know beforehand how long it will take.
func send(ctx context.Context, q sendQuestion, say remote.Progress) (t Transfer, err error) {
	if q.Tool == iperf3 {
		return sendByIperf(ctx, q)
	}
	d := net.Dialer{Timeout: connectPatience, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(q.From, 0))}
	c, err := d.DialContext(ctx, "tcp", q.To.String())
	if err != nil {
		return t, err
	}
	defer c.Close()
	buffer := make([]byte, 256<<10)
	if q.Pace > 0 {
		if err := slow(c.(*net.TCPConn), q.Pace); err != nil {
			return t, err
		}
		buffer = buffer[:min(len(buffer), max(1, q.Pace/10))] // so that the end comes soon
	}
	say(sendingNow)
	start := time.Now()
	for t.Bytes == 0 || time.Since(start) < q.For && ctx.Err() == nil {
		c.SetWriteDeadline(time.Now().Add(stallPatience))
		n, err := c.Write(buffer)
		t.Bytes += int64(n)
		if err != nil {
			return t, err
		}
	}
	t.Took = time.Since(start)
	return t, nil
}

// slow has the kernel send a connection's segments one by one, at so many bytes a second (socket(7),
// SO_MAX_PACING_RATE).
func slow(c *net.TCPConn, pace int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, pace) })
	return errors.Join(err, cerr, c.SetWriteBuffer(pace/10))
}

// portOf reads the port out of what receive says.
func portOf(line string) (uint16, bool) {
	digits, ok := strings.CutPrefix(line, listening)
	port, err := strconv.ParseUint(digits, 10, 16)
	return uint16(port), ok && err == nil
}
