// Package ipsecmb runs intel-ipsec-mb, in a process of its own, as a peer in benchmarks of
// AES-GCM. It needs a C compiler and the library's headers: libipsec-mb-dev on Debian.
package ipsecmb

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

//go:embed peer/ipsecmb.c
var source []byte

// Peer is a running process. Its methods are for one goroutine at a time.
type Peer struct {
	// Name is the library with its version and the instruction set it has chosen.
	Name string

	dir    string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr strings.Builder
}

// Start builds the peer and starts it, on the CPUs that the calling thread may use.
func Start() (_ *Peer, err error) {
	p := &Peer{}
	if p.dir, err = os.MkdirTemp("", "ipsecmb"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(p.dir)
		}
	}()
	src, bin := filepath.Join(p.dir, "ipsecmb.c"), filepath.Join(p.dir, "ipsecmb")
	if err := os.WriteFile(src, source, 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command("cc", "-O2", "-o", bin, src, "-lIPSec_MB").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the peer intel-ipsec-mb: %w: install gcc and libipsec-mb-dev\n%s", err, out)
	}
	p.cmd = exec.Command(bin)
	p.cmd.Stderr = &p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if p.Name, err = p.line(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Sample times so many packets of size bytes each, by one of the library's interfaces: burst,
// job or direct. The answer is in nanoseconds for each packet.
func (p *Peer) Sample(api string, open bool, keyBits, size, packets int) (float64, error) {
	direction := "seal"
	if open {
		direction = "open"
	}
	if _, err := fmt.Fprintln(p.in, api, direction, keyBits, size, packets); err != nil {
		return 0, fmt.Errorf("intel-ipsec-mb: %w: %s", err, p.stderr.String())
	}
	line, err := p.line()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(line, 64)
}

func (p *Peer) line() (string, error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("intel-ipsec-mb: %w: %s", err, p.stderr.String())
	}
	return strings.TrimSpace(line), nil
}

// Close ends the process.
func (p *Peer) Close() error {
	defer os.RemoveAll(p.dir)
	p.in.Close()
	return p.cmd.Wait()
}
