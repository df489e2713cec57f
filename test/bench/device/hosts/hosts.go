// Package hosts makes two hosts in network namespaces for benchmarks, joined by a cable, and runs
// programs in them: espalier's own userspace device, its peers, and what makes traffic.
//
// All of it ends with [Pair.Close], or with this process, however that ends. What is on the hosts is as
// it comes: no offload of the cable is switched off.
package hosts

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"

	"espalier/internal/netns"
	"espalier/test/lab"
)

// Device is the name of both ends of the cable.
const Device = "p4p1"

// Pair is two hosts. Its cable is a veth pair with an MTU of 1500 bytes.
type Pair struct {
	A, B *Host

	words *lab.Lab // for its scripts alone
}

// Host is a network namespace and the programs started in it.
type Host struct {
	*netns.NS
	Name string
	Dir  string // for files of this host

	running []*Process
	device  *Process // espalier's, if it runs
	socket  string   // of it
	program string   // espalier
	script  *lab.Host
}

// New makes two hosts with the addresses of package lab. Their files are in dir.
func New(dir string) (_ *Pair, err error) {
	p := &Pair{words: &lab.Lab{Device: Device}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.A, err = NewHost("A", dir); err != nil {
		return nil, err
	}
	if p.B, err = NewHost("B", dir); err != nil {
		return nil, err
	}
	p.words.A, p.words.B = p.A.script, p.B.script
	return p, netns.Cable(
		netns.End{NS: p.A.NS, Name: Device, Addresses: []netip.Prefix{netip.PrefixFrom(lab.A4, 24), netip.PrefixFrom(lab.A6, 64)}},
		netns.End{NS: p.B.NS, Name: Device, Addresses: []netip.Prefix{netip.PrefixFrom(lab.B4, 24), netip.PrefixFrom(lab.B6, 64)}},
	)
}

// NewHost makes a host without any cable. Its files are in a directory of its name in dir.
func NewHost(name, dir string) (*Host, error) {
	h := &Host{Name: name, Dir: filepath.Join(dir, name), script: &lab.Host{Name: name, Device: Device}}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if h.NS, err = netns.New(); err != nil {
		return nil, err
	}
	return h, nil
}

// Hosts are both hosts.
func (p *Pair) Hosts() []*Host { return []*Host{p.A, p.B} }

// Close ends what runs, the last started first, and the hosts.
func (p *Pair) Close() error {
	var errs []error
	for _, h := range p.Hosts() {
		if h != nil {
			errs = append(errs, h.Close())
		}
	}
	return errors.Join(errs...)
}

// Close ends what runs on the host, the last started first, and the host.
func (h *Host) Close() error {
	h.release()
	for i := len(h.running) - 1; i >= 0; i-- {
		h.running[i].Stop()
	}
	return h.NS.Close()
}
