package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ikeDaemons by the name of their process: each keeps SAs and policies of its own, and some flush
// what is not theirs.
var ikeDaemons = map[string]string{
	"charon": "strongSwan", "charon-systemd": "strongSwan", "charon-nm": "strongSwan",
	"pluto": "Libreswan", "racoon": "racoon", "iked": "iked", "isakmpd": "isakmpd",
	"ovs-monitor-ips": "Open vSwitch's IPsec", // its name as the kernel cuts it
}

// hostNetworkLayer asks what concerns all devices of a host alike.
func hostNetworkLayer(s *survey) Layer {
	return Layer{Name: "other programs", Checks: []Check{s.ikeCheck(), s.portsCheck()}}
}

// process that has to do with IPsec.
type process struct {
	pid  int
	comm string
}

// processes lists those whose name passes; an error means that not even names were shown.
func (s *survey) processes(pass func(comm string) bool) ([]process, error) {
	entries, err := fs.ReadDir(s.root, "proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		comm, err := s.read("proc/" + e.Name() + "/comm")
		if err == nil && pass(comm) {
			found = append(found, process{pid, comm})
		}
	}
	slices.SortFunc(found, func(a, b process) int { return a.pid - b.pid })
	return found, nil
}

func (s *survey) ikeCheck() Check {
	c := Check{ID: "host.ike", Title: "no other IKE daemon", Weight: Warns, Evidence: []Evidence{{"/proc/*/comm", ""}}}
	found, err := s.processes(func(comm string) bool { return ikeDaemons[comm] != "" })
	_, hidden := s.read("proc/1/comm")
	switch {
	case err != nil:
		c.Why = "processes not listed: " + unread(err)
	case len(found) == 0 && hidden != nil:
		c.Why = "processes of others are hidden" // hidepid, proc(5)
	case len(found) == 0:
		c.Answer, c.Why = Yes, "none is running"
		c.Evidence[0].Value = "none of " + strings.Join(slices.Sorted(maps.Keys(ikeDaemons)), ", ")
	default:
		p := found[0]
		c.Evidence = nil
		for _, p := range found {
			c.Evidence = append(c.Evidence, Evidence{fmt.Sprintf("/proc/%d/comm", p.pid), p.comm})
		}
		c.Answer = No
		c.Why = fmt.Sprintf("%s (%s, pid %d) keeps SAs and policies of its own: either may remove the other's", ikeDaemons[p.comm], p.comm, p.pid)
		c.Fix = "Leave the SAs of this host to one of them: systemctl disable --now " + s.ikeService(p.comm) + ", or do not use espalier for hosts that it serves."
	}
	return c
}

// ikeService is the unit of a daemon's on this distribution.
func (s *survey) ikeService(comm string) string {
	rhel := s.distribution().is("rhel", "fedora")
	switch {
	case comm == "pluto":
		return "ipsec"
	case comm == "charon-nm":
		return "NetworkManager (or remove the strongSwan connection)"
	case comm == "charon-systemd" || comm == "charon" && rhel:
		return "strongswan"
	case comm == "charon":
		return "strongswan-starter"
	case comm == "ovs-monitor-ips":
		return "openvswitch-ipsec"
	}
	return comm
}

// portsCheck: who takes the ports of IKE and of UDP encapsulation gets those packets.
func (s *survey) portsCheck() Check {
	c := Check{ID: "host.ike-ports", Title: "UDP 500 and 4500 free", Weight: Warns}
	var taken []udpSocket
	for _, name := range []string{"udp", "udp6"} {
		file := "proc/net/" + name
		text, err := s.netFile(name)
		if errors.Is(err, fs.ErrNotExist) && name == "udp6" {
			continue // a kernel without IPv6
		}
		if err != nil {
			c.Why = "sockets not listed: " + unread(err)
			c.Evidence = append(c.Evidence, Evidence{"/" + file, ""})
			return c
		}
		for _, u := range parseUDP(text) {
			if u.port == 500 || u.port == natPort {
				taken = append(taken, u)
				c.Evidence = append(c.Evidence, Evidence{"/" + file, u.line})
			}
		}
	}
	if len(taken) == 0 {
		c.Answer, c.Why = Yes, "nobody has them"
		c.Evidence = []Evidence{{"/proc/net/udp", "no socket of port 500 or 4500"}}
		return c
	}
	owner, port := s.owner(taken)
	switch {
	case owner.pid == 0:
		c.Why = fmt.Sprintf("UDP %d is taken, by whom is not shown to this user", taken[0].port)
	case owner.comm == "espalier":
		c.Answer, c.Why = Yes, fmt.Sprintf("UDP %d is espalier's own (pid %d)", port, owner.pid)
	default:
		c.Answer, c.Why = No, fmt.Sprintf("UDP %d is %s's (pid %d), which gets what comes there", port, owner.comm, owner.pid)
		c.Fix = "End " + owner.comm + ", or use SAs without UDP encapsulation."
	}
	return c
}

// netFile reads a file of /proc/net: of the calling thread's network namespace, since /proc/net is
// that of the process's first thread.
func (s *survey) netFile(name string) ([]byte, error) {
	text, err := fs.ReadFile(s.root, "proc/thread-self/net/"+name)
	if errors.Is(err, fs.ErrNotExist) {
		return fs.ReadFile(s.root, "proc/net/"+name)
	}
	return text, err
}

// owner finds who holds one of the sockets, and its port, by the links in /proc/PID/fd: of IKE daemons and of
// ourselves first, as looking through all processes takes long.
func (s *survey) owner(taken []udpSocket) (owner process, port uint16) {
	likely, err := s.processes(func(comm string) bool { return comm == "espalier" || ikeDaemons[comm] != "" })
	if err != nil {
		return process{}, 0
	}
	all, _ := s.processes(func(string) bool { return true })
	for _, p := range slices.Concat(likely, all[:min(len(all), mostProcesses)]) {
		dir := fmt.Sprintf("proc/%d/fd", p.pid)
		fds, err := fs.ReadDir(s.root, dir)
		if err != nil {
			continue
		}
		for _, fd := range fds[:min(len(fds), mostDescriptors)] {
			to, err := fs.ReadLink(s.root, path.Join(dir, fd.Name()))
			if err != nil {
				continue
			}
			for _, u := range taken {
				if to == "socket:["+u.inode+"]" {
					return p, u.port
				}
			}
		}
	}
	return process{}, 0
}

// On a host with more, who holds a port is not looked for to the end.
const (
	mostProcesses   = 2000
	mostDescriptors = 500
)

// udpSocket is a line of /proc/net/udp.
type udpSocket struct {
	port  uint16
	inode string
	line  string
}

// parseUDP reads /proc/net/udp (net/ipv4/udp.c): after a heading, lines of
// "number: address:port address:port state queues … uid timeout inode …", ports in hex.
func parseUDP(text []byte) []udpSocket {
	var sockets []udpSocket
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 10 {
			continue
		}
		_, port, ok := strings.Cut(words[1], ":")
		n, err := strconv.ParseUint(port, 16, 16)
		if !ok || err != nil {
			continue
		}
		sockets = append(sockets, udpSocket{uint16(n), words[9], strings.Join(words, " ")})
	}
	return sockets
}
