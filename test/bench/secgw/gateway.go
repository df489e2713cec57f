package secgw

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Gateway is a running ipsec-secgw that encapsulates one frame again and again, by one SA: tunnel
// mode, IPv4 in IPv4, AES-GCM-128. It looks up the SPD for each packet. It is stopped (SIGSTOP) but
// while Sample runs. Its methods are for one goroutine at a time.
type Gateway struct {
	Name string // with version and mode

	cmd   *exec.Cmd
	dir   string
	log   *os.File
	stats net.Conn

	others unix.CPUSet // CPUs but that of the gateway
}

// Modes are the ways in which the gateway can use its crypto device: as it did at first, by the
// ipsec library, and by the ipsec library without queues.
var Modes = []string{"lookaside", "librte_ipsec", "cpu-crypto"}

// patience with the gateway's start.
const patience = 20 * time.Second

// Start starts a gateway on a CPU, for packets of size bytes, IP header included. The frames of one
// IPv4 packet go in by a null device that copies them into buffers, and out by another that drops
// them. It has 1 GiB of memory and no huge pages.
func Start(mode string, cpu int, packet []byte) (_ *Gateway, err error) {
	program, err := program()
	if err != nil {
		return nil, err
	}
	g := &Gateway{Name: fmt.Sprintf("ipsec-secgw %s, %s", program.version, mode)}
	if err := unix.SchedGetaffinity(0, &g.others); err != nil {
		return nil, fmt.Errorf("CPU affinity: %w", err)
	}
	g.others.Clear(cpu)
	if g.dir, err = os.MkdirTemp("", "secgw"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w: %s", g.Name, err, g.said()), g.Close())
		}
	}()
	config, frame := filepath.Join(g.dir, "ep.cfg"), filepath.Join(g.dir, "frame")
	ethernet := append(make([]byte, 12), 0x08, 0x00)
	err = errors.Join(os.WriteFile(config, []byte(configFor(mode)), 0o600), os.WriteFile(frame, append(ethernet, packet...), 0o600))
	if err != nil {
		return nil, err
	}
	prefix := filepath.Base(g.dir)
	size := len(ethernet) + len(packet)
	args := []string{
		"-l", strconv.Itoa(cpu), "--no-huge", "-m", "1024", "--no-pci", "--file-prefix", prefix, "--log-level", "4",
		"--vdev", fmt.Sprintf("net_null0,size=%d,no-rx=1", size), "--vdev", fmt.Sprintf("net_null1,size=%d,copy=1", size),
		"--vdev", "crypto_aesni_gcm0", "--",
		"-p", "0x3", "-P", "-u", "0x1", "-f", config, "--config", fmt.Sprintf("(0,0,%d),(1,0,%d)", cpu, cpu),
	}
	if mode != Modes[0] {
		args = append(args, "-l")
	}
	g.cmd = exec.Command(program.path, args...)
	if g.log, err = os.Create(filepath.Join(g.dir, "log")); err != nil {
		return nil, err
	}
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	g.cmd.Env = append(os.Environ(), "NULL_FRAME="+frame)
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	if err := g.connect(filepath.Join("/var/run/dpdk", prefix, "dpdk_telemetry.v2")); err != nil {
		return nil, err
	}
	return g, g.pause()
}

// configFor is the gateway's configuration. Tunnelled packets leave by port 0, and only they.
func configFor(mode string) string {
	sa := "aead_algo aes-128-gcm aead_key " + strings.Repeat("5a:", 19) + "5a mode ipv4-tunnel"
	suffix := ""
	if mode == "cpu-crypto" {
		suffix = " type cpu-crypto"
	}
	return "sp ipv4 out esp protect 5 pri 1 src 10.0.0.0/8 dst 11.0.0.0/8 sport 0:65535 dport 0:65535\n" +
		"sp ipv4 in esp protect 105 pri 1 src 11.0.0.0/8 dst 10.0.0.0/8 sport 0:65535 dport 0:65535\n" +
		"sa out 5 " + sa + " src 172.16.1.1 dst 172.16.2.1" + suffix + "\n" +
		"sa in 105 " + sa + " src 172.16.2.1 dst 172.16.1.1" + suffix + "\n" +
		"rt ipv4 dst 172.16.2.1/32 port 0\n" +
		"rt ipv4 dst 11.0.0.0/8 port 1\n"
}

// connect waits until packets leave.
func (g *Gateway) connect(socket string) (err error) {
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if g.stats == nil {
			if g.stats, err = net.Dial("unixpacket", socket); err != nil {
				g.stats = nil
				continue
			}
			if _, err := g.stats.Read(make([]byte, 1<<14)); err != nil { // it introduces itself
				return err
			}
		}
		if n, err := g.sent(); err == nil && n > 0 {
			return nil
		}
	}
	return errors.Join(errors.New("it sends nothing"), err)
}

// sent is how many packets have left.
func (g *Gateway) sent() (uint64, error) {
	g.stats.SetDeadline(time.Now().Add(patience))
	if _, err := g.stats.Write([]byte("/ethdev/stats,0")); err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<14)
	n, err := g.stats.Read(buf)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Stats struct{ Opackets uint64 } `json:"/ethdev/stats"`
	}
	err = json.Unmarshal(buf[:n], &answer)
	return answer.Stats.Opackets, err
}

// said is the end of what it has printed.
func (g *Gateway) said() string {
	out, _ := os.ReadFile(filepath.Join(g.dir, "log"))
	return string(out[max(0, len(out)-1000):])
}

func (g *Gateway) pause() error { return g.cmd.Process.Signal(syscall.SIGSTOP) }

// Sample lets the gateway run for a time and returns nanoseconds of CPU time for each packet: others
// may use the machine. The caller, whose goroutine is locked to its thread, gets out of the gateway's
// way meanwhile.
func (g *Gateway) Sample(length time.Duration) (float64, error) {
	var here unix.CPUSet
	if err := unix.SchedGetaffinity(0, &here); err != nil {
		return 0, fmt.Errorf("CPU affinity: %w", err)
	}
	if unix.SchedSetaffinity(0, &g.others) == nil { // else there is only one CPU
		defer unix.SchedSetaffinity(0, &here)
	}
	if err := g.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return 0, err
	}
	before, began, err := g.progress()
	if err != nil {
		return 0, err
	}
	time.Sleep(length)
	after, ended, err := g.progress()
	if err != nil {
		return 0, err
	}
	if err := g.pause(); err != nil {
		return 0, err
	}
	if after == before {
		return 0, fmt.Errorf("%s: no packet has left: %s", g.Name, g.said())
	}
	return float64(ended-began) / float64(after-before), nil
}

// progress is how many packets have left, and the CPU time used till then. The answer tells of some
// moment between two looks at the clock: it asks again until those are close together.
func (g *Gateway) progress() (packets uint64, cpu time.Duration, err error) {
	closest := time.Duration(math.MaxInt64)
	for range 20 {
		before, err := g.cpuTime()
		if err != nil {
			return 0, 0, err
		}
		n, err := g.sent()
		if err != nil {
			return 0, 0, err
		}
		after, err := g.cpuTime()
		if err != nil {
			return 0, 0, err
		}
		if apart := after - before; apart < closest {
			packets, cpu, closest = n, (before+after)/2, apart
		}
		if closest < 50*time.Microsecond {
			break
		}
	}
	return packets, cpu, nil
}

func (g *Gateway) cpuTime() (time.Duration, error) {
	const cpuclockSched = 2 // of a process: clock_getcpuclockid(3)
	var t unix.Timespec
	err := unix.ClockGettime(int32(^g.cmd.Process.Pid<<3|cpuclockSched), &t)
	return time.Duration(t.Nano()), err
}

// Close ends the gateway.
func (g *Gateway) Close() error {
	defer os.RemoveAll(g.dir)
	defer os.RemoveAll(filepath.Join("/var/run/dpdk", filepath.Base(g.dir)))
	if g.stats != nil {
		g.stats.Close()
	}
	if g.log != nil {
		g.log.Close()
	}
	if g.cmd == nil || g.cmd.Process == nil {
		return nil
	}
	g.cmd.Process.Kill()
	g.cmd.Wait()
	return nil
}
