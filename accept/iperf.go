package accept

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"espalier/remote"
)

const iperf3 = "iperf3"

// tools tells which programs for measuring this host has.
func tools(context.Context, struct{}, remote.Progress) (found []string, err error) {
	if _, err := exec.LookPath(iperf3); err == nil {
		found = append(found, iperf3)
	}
	return found, nil
}

// receiveByIperf serves one test of iperf3's. What it measured the sender knows, too.
func receiveByIperf(ctx context.Context, q receiveQuestion, say remote.Progress) (t Transfer, err error) {
	if q.Port == 0 {
		l, err := net.Listen("tcp", netip.AddrPortFrom(q.At, 0).String())
		if err != nil {
			return t, err
		}
		q.Port = uint16(l.Addr().(*net.TCPAddr).Port)
		l.Close()
	}
	cmd := exec.CommandContext(ctx, iperf3, "-s", "-1", "--forceflush", "-B", q.At.String(), "-p", strconv.Itoa(int(q.Port)))
	cmd.WaitDelay = time.Second
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return t, err
	}
	if err := cmd.Start(); err != nil {
		return t, err
	}
	for line := bufio.NewScanner(out); line.Scan(); {
		if strings.Contains(line.Text(), "listening on") {
			say(listening + strconv.Itoa(int(q.Port)))
		}
	}
	if err := cmd.Wait(); err != nil {
		return t, fmt.Errorf("iperf3 -s: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return t, nil
}

// sendByIperf runs iperf3's test, and returns what the receiver has told it.
func sendByIperf(ctx context.Context, q sendQuestion) (t Transfer, err error) {
	cmd := exec.CommandContext(ctx, iperf3, "-c", q.To.Addr().String(), "-p", strconv.Itoa(int(q.To.Port())), "-B", q.From.String(),
		"-t", strconv.Itoa(max(1, int(q.For.Seconds()))), "--connect-timeout", strconv.Itoa(int(connectPatience.Milliseconds())), "-J")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return t, context.Cause(ctx)
	}
	return parseIperf(out, err)
}

// parseIperf reads iperf3 -J, which says there what went wrong, too.
func parseIperf(out []byte, failed error) (t Transfer, err error) {
	var said struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				Seconds float64 `json:"seconds"`
				Bytes   int64   `json:"bytes"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return t, fmt.Errorf("iperf3: %w", failed)
	}
	if said.Error != "" {
		return t, fmt.Errorf("iperf3: %s", said.Error)
	}
	if failed != nil {
		return t, fmt.Errorf("iperf3: %w", failed)
	}
	t.Bytes, t.Took = said.End.Received.Bytes, time.Duration(said.End.Received.Seconds*float64(time.Second))
	if t.Bytes == 0 {
		return t, fmt.Errorf("iperf3: nothing arrived")
	}
	return t, nil
}
