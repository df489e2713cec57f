// Package traffic loads what lies between two hosts, and says what got through: iperf3 for streams
// and datagrams, ping for latency.
package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"espalier/test/bench/device/hosts"
)

// Tools is an error that says what to install.
func Tools() error {
	var missing []string
	for _, t := range []struct{ program, pkg string }{{"iperf3", "iperf3"}, {"ping", "iputils-ping"}, {"ip", "iproute2"}} {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if missing != nil {
		return fmt.Errorf("programs are missing: apt-get install %s", strings.Join(missing, " "))
	}
	return nil
}

// Stream is what iperf3 reports of TCP.
type Stream struct {
	Rate        float64 // received, in bits a second; of both directions if there are two
	Retransmits []int   // of each second, on the sending side
}

// TCP sends streams from one host to an address of another for some seconds, and as many back at the
// same time if both.
func TCP(ctx context.Context, from, to *hosts.Host, addr netip.Addr, seconds, streams int, both bool) (Stream, error) {
	args := []string{"-P", strconv.Itoa(streams)}
	if both {
		args = append(args, "--bidir")
	}
	return tcp(ctx, from, to, addr, seconds, both, args)
}

// TCPAt sends one stream at a rate in bits a second.
func TCPAt(ctx context.Context, from, to *hosts.Host, addr netip.Addr, seconds int, rate float64) (Stream, error) {
	return tcp(ctx, from, to, addr, seconds, false, []string{"-b", strconv.FormatFloat(rate, 'f', 0, 64)})
}

func tcp(ctx context.Context, from, to *hosts.Host, addr netip.Addr, seconds int, both bool, args []string) (Stream, error) {
	out, err := iperf(ctx, from, to, addr, seconds, args...)
	if err != nil {
		return Stream{}, err
	}
	s, err := parseTCP(out, both)
	if err != nil {
		return Stream{}, fmt.Errorf("iperf3 to %s: %w", addr, err)
	}
	return s, nil
}

// Datagrams is what iperf3 reports of UDP.
type Datagrams struct {
	PerSecond float64 // received
	Loss      float64 // of those sent, from 0 to 1
	Sent      int
	Lost      int
}

// UDP sends datagrams of size bytes from one host to an address of another for some seconds, as fast
// as it can.
func UDP(ctx context.Context, from, to *hosts.Host, addr netip.Addr, seconds, size int) (Datagrams, error) {
	return UDPAt(ctx, from, to, addr, seconds, size, 0)
}

// UDPAt sends so many datagrams a second; 0 is as fast as it can. It may run beside TCP.
func UDPAt(ctx context.Context, from, to *hosts.Host, addr netip.Addr, seconds, size, perSecond int) (Datagrams, error) {
	out, err := iperf(ctx, from, to, addr, seconds, "-p", "5202", "-u", "-b", strconv.Itoa(perSecond*size*8), "-l", strconv.Itoa(size))
	if err != nil {
		return Datagrams{}, err
	}
	d, err := parseUDP(out, size)
	if err != nil {
		return Datagrams{}, fmt.Errorf("iperf3 -u to %s: %w", addr, err)
	}
	return d, nil
}

// grace is how much longer than the traffic itself a measurement may take.
const grace = time.Minute

// iperf runs a server for one test and a client, and returns the client's JSON.
func iperf(ctx context.Context, from, to *hosts.Host, addr netip.Addr, seconds int, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(seconds)*time.Second+grace,
		fmt.Errorf("no end %s after it was due", grace))
	defer cancel()
	serve := []string{"-s", "-1", "-B", addr.String(), "--forceflush"}
	if args[0] == "-p" {
		serve = append(serve, args[:2]...)
	}
	server, err := to.Launch(ctx, "Server listening", "iperf3", serve...)
	if err != nil {
		return nil, err
	}
	defer server.Kill() // for a client that is gone it would wait
	out, err := from.Run(ctx, "", "iperf3", append([]string{"-c", addr.String(), "-t", strconv.Itoa(seconds), "-J"}, args...)...)
	if err != nil && ctx.Err() == nil {
		if said := complaint([]byte(out)); said != nil {
			err = fmt.Errorf("host %s: iperf3 to %s: %w", from.Name, addr, said)
		}
	}
	return []byte(out), err
}

// complaint is the error in iperf3's JSON, if there is one.
func complaint(out []byte) error {
	var answer struct{ Error string }
	if json.Unmarshal(out, &answer) == nil && answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

// sum is of all streams of a direction.
type sum struct {
	Seconds     float64
	Bytes       float64
	Rate        float64 `json:"bits_per_second"`
	Retransmits *int
	Loss        *float64 `json:"lost_percent"`
	Packets     int
	Lost        int `json:"lost_packets"`
}

func parseTCP(out []byte, both bool) (Stream, error) {
	var answer struct {
		Intervals []struct{ Sum sum }
		End       struct {
			Received *sum `json:"sum_received"`
			Back     *sum `json:"sum_received_bidir_reverse"`
		}
	}
	if err := errors.Join(complaint(out), json.Unmarshal(out, &answer)); err != nil {
		return Stream{}, err
	}
	if answer.End.Received == nil || both && answer.End.Back == nil {
		return Stream{}, errors.New("it does not tell what was received")
	}
	s := Stream{Rate: answer.End.Received.Rate}
	if both {
		s.Rate += answer.End.Back.Rate
	}
	for _, i := range answer.Intervals {
		if i.Sum.Retransmits == nil {
			return Stream{}, errors.New("it does not tell what was retransmitted")
		}
		if i.Sum.Seconds > 0.5 { // the rest of a second at the end tells nothing
			s.Retransmits = append(s.Retransmits, *i.Sum.Retransmits)
		}
	}
	if s.Rate <= 0 {
		return Stream{}, errors.New("nothing was received")
	}
	return s, nil
}

func parseUDP(out []byte, size int) (Datagrams, error) {
	var answer struct {
		End struct {
			Received *sum `json:"sum_received"`
		}
	}
	if err := errors.Join(complaint(out), json.Unmarshal(out, &answer)); err != nil {
		return Datagrams{}, err
	}
	r := answer.End.Received
	if r == nil || r.Loss == nil || r.Seconds <= 0 {
		return Datagrams{}, errors.New("it does not tell what was received")
	}
	d := Datagrams{PerSecond: r.Bytes / float64(size) / r.Seconds, Loss: *r.Loss / 100, Sent: r.Packets, Lost: r.Lost}
	if d.PerSecond <= 0 || math.IsNaN(d.Loss) {
		return Datagrams{}, errors.New("nothing was received")
	}
	return d, nil
}
