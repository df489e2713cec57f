package witness

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
)

// scapyPython is the interpreter that the distribution's Scapy belongs to.
const scapyPython = "/usr/bin/python3"

// job and answer are those of scapy_peer.py.
type job struct {
	Src      string   `json:"src"`
	Dst      string   `json:"dst"`
	Out      jobSA    `json:"out"`
	In       jobSA    `json:"in"`
	Tunnel   bool     `json:"tunnel"`
	UDP      bool     `json:"udp"`
	ESN      bool     `json:"esn"`
	High     uint32   `json:"high"`
	ID       int      `json:"id"`
	Payloads []string `json:"payloads"`
	Answer   int      `json:"answer"`
	Timeout  float64  `json:"timeout"`
}

type jobSA struct {
	SPI uint32 `json:"spi"`
	Key string `json:"key"`
}

type answer struct {
	Replies, Requests []echo
	Errors            []string
}

type echo struct {
	ID      int
	Seq     int
	Payload string
	ESPSeq  uint32 `json:"esp_seq"`
}

// scapy is the peer at host A; the process serves all jobs, for Scapy is slow to start.
type scapy struct {
	t       *testing.T
	in      *json.Encoder
	answers *bufio.Reader
	errors  *bytes.Buffer
}

func startScapy(t *testing.T, h *lab.Host) *scapy {
	t.Helper()
	if err := exec.Command(scapyPython, "-c", "import scapy.layers.ipsec, cryptography").Run(); err != nil {
		lab.Missing(t, "python3-scapy and python3-cryptography")
	}
	cmd := exec.Command(scapyPython, "scapy_peer.py", h.Device)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &scapy{t: t, in: json.NewEncoder(in), answers: bufio.NewReader(out), errors: &bytes.Buffer{}}
	cmd.Stderr = s.errors
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	end := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		end.Stop()
		in.Close()
		cmd.Wait()
	})
	if line, err := s.answers.ReadString('\n'); line != "ready\n" {
		t.Fatalf("Scapy did not start: %v\n%s", err, s.errors)
	}
	return s
}

// do carries out j; meanwhile, if not nil, runs once the peer is at it.
func (s *scapy) do(j job, meanwhile func()) answer {
	s.t.Helper()
	if err := s.in.Encode(j); err != nil {
		s.t.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile()
	}
	line, err := s.answers.ReadBytes('\n')
	if err != nil {
		s.t.Fatalf("Scapy ended: %v\n%s", err, s.errors)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		s.t.Fatalf("%v: %s", err, line)
	}
	return a
}

// newJob makes Scapy host A's half of pair.
func newJob(l *lab.Lab, p lab.Pair) job {
	a, b := p.Ends()
	sas := p.SAs()
	j := job{
		Src: a.String(), Dst: b.String(),
		Out:    jobSA{sas[0].SPI, hex.EncodeToString(sas[0].Key)},
		In:     jobSA{sas[1].SPI, hex.EncodeToString(sas[1].Key)},
		Tunnel: p.Tunnel, UDP: p.UDP, ESN: p.ESN, ID: int(sas[0].SPI & 0xffff), Timeout: 10,
	}
	if p.ESN {
		j.High = high
	}
	return j
}

// high is the upper half of the sequence numbers with ESN: were it 0, forgetting it would do
// no harm.
const high = 7

// program replaces all SAs and policies of h by its half of p.
func program(l *lab.Lab, h *lab.Host, p lab.Pair) {
	set := func(command, number string) string {
		return strings.ReplaceAll(command, " flag esn", fmt.Sprintf(" flag esn %s %d", number, high))
	}
	script := set(l.Inbound(h, p), "replay-seq-hi") + set(l.Outbound(h, p), "replay-oseq-hi") + l.Policies(h, p)
	h.Batch("ip xfrm policy flush\nip xfrm state flush\n" + script)
}

// payloads have all lengths of padding, none at all, and nearly a full packet.
func payloads() []string {
	var all []string
	for _, n := range []int{0, 1, 2, 3, 4, 56, 1300} {
		all = append(all, strings.Repeat("a5", n))
	}
	return all
}

// TestScapy: Scapy opens what a device sealed, and a device opens what Scapy sealed, in both
// roles of an echo, for every kind of SA.
func TestScapy(t *testing.T) {
	l := lab.New(t, "")
	lab.Tools(t, scapyPython, "ping")
	peer := startScapy(t, l.A)
	l.B.StartDevice()
	pairs := cells([]bool{false, true})
	if len(pairs) != 32 {
		t.Fatalf("%d cells", len(pairs))
	}
	for _, p := range pairs {
		t.Run(name(p), func(t *testing.T) {
			program(l, l.B, p)
			j := newJob(l, p)
			j.Payloads, j.Answer = payloads(), pings
			got := peer.do(j, func() { ping(t, l.B, a(p), 4242, pings) })
			checkReplies(t, j, got)
			if len(got.Requests) != pings || got.Requests[0].ID != 4242 {
				t.Errorf("the device's echo requests: %+v", got.Requests)
			}
			checkNumbers(t, got)
		})
	}
	if code := l.B.Stop(); code != 0 {
		t.Errorf("the device ended with %d", code)
	}
}

// checkReplies looks for the echo of every payload.
func checkReplies(t *testing.T, j job, got answer) {
	t.Helper()
	if len(got.Errors) > 0 {
		t.Errorf("Scapy: %s", got.Errors)
	}
	var back []string
	for _, r := range got.Replies {
		if r.ID != j.ID || r.Seq < 1 || r.Seq > len(j.Payloads) || r.Payload != j.Payloads[r.Seq-1] {
			t.Errorf("echo reply %d of id %d with %d bytes was not asked for", r.Seq, r.ID, len(r.Payload)/2)
		}
		back = append(back, r.Payload)
	}
	if !slices.Equal(back, j.Payloads) {
		t.Errorf("%d echo replies for %d requests, or not in order", len(back), len(j.Payloads))
	}
}

// checkNumbers: the device counts its packets from 1, leaving no number out.
func checkNumbers(t *testing.T, got answer) {
	t.Helper()
	var numbers []uint32
	for _, e := range append(got.Replies, got.Requests...) {
		numbers = append(numbers, e.ESPSeq)
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != uint32(i+1) {
			t.Fatalf("sequence numbers %v", numbers)
		}
	}
}

// TestScapyControl has Scapy err in one bit of each key: neither side may open anything.
func TestScapyControl(t *testing.T) {
	l := lab.New(t, "")
	lab.Tools(t, scapyPython, "ping")
	peer := startScapy(t, l.A)
	l.B.StartDevice()
	p := lab.Pair{SPI: 0x9000}
	program(l, l.B, p)
	j := newJob(l, p)
	j.Payloads, j.Answer, j.Timeout = payloads(), 1, 0.7
	right := j
	for _, sa := range []*jobSA{&j.Out, &j.In} {
		key, _ := hex.DecodeString(sa.Key)
		key[len(key)/2] ^= 1
		sa.Key = hex.EncodeToString(key)
	}
	got := peer.do(j, func() {
		if l.B.Ping(a(p), 1) {
			t.Error("an echo request under the wrong key was answered")
		}
	})
	if len(got.Replies) > 0 || len(got.Requests) > 0 {
		t.Errorf("opened under the wrong key: %+v", got)
	}
	if len(got.Errors) != 1 || !strings.Contains(got.Errors[0], "IPSecIntegrityError") {
		t.Errorf("the device sent one packet; Scapy says of it: %q", got.Errors)
	}
	if n := integrityFailures(t, l.B, p.SAs()[0].SPI); n != len(j.Payloads) {
		t.Errorf("the device refused %d packets of %d", n, len(j.Payloads))
	}
	// The damage was in the keys alone: with the right ones the same SA works.
	right.Answer = 0
	if got := peer.do(right, nil); len(got.Replies) != len(right.Payloads) {
		t.Errorf("%d replies to %d requests under the right key; %s", len(got.Replies), len(right.Payloads), got.Errors)
	}
}

func integrityFailures(t *testing.T, h *lab.Host, spi uint32) int {
	t.Helper()
	r := h.Xfrm("-o", "json", "state", "list", "spi", fmt.Sprintf("%#x", spi))
	var list struct {
		States []struct {
			Stats struct {
				IntegrityFailed int `json:"integrity_failed"`
			}
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil || len(list.States) != 1 {
		t.Fatalf("%v: %s%s", err, r.Stdout, r.Stderr)
	}
	return list.States[0].Stats.IntegrityFailed
}
