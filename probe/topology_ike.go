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
	"charon": "strongSwan", "charon-systemd": "strongSwan", "charon-nm": "strongSwan", "charon-tkm": "strongSwan", "charon-cmd": "strongSwan",
	"cilium-agent": "Cilium",
	"pluto":        "Libreswan", "racoon": "racoon", "iked": "iked", "isakmpd": "isakmpd",
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
	c := Check{ID: "host.ike", Title: "no other IKE daemon", Weight: Warns}
	found, err := s.processes(func(comm string) bool { return ikeDaemons[comm] != "" })
	if err != nil {
		c.Why, c.Evidence = "processes not listed: "+unread(err), []Evidence{{"/proc", ""}}
		return c
	}
	c.Evidence = []Evidence{{"/proc/*/comm", "none of " + strings.Join(slices.Sorted(maps.Keys(ikeDaemons)), ", ")}}
	c.Answer, c.Why = Yes, "none is running here"
	if _, err := s.read("proc/1/comm"); err != nil && len(found) == 0 {
		c.Answer, c.Why = Unknown, "processes of others are hidden" // hidepid, proc(5)
	}
	for _, p := range found {
		here, at := s.sameNamespace(p.pid)
		e := Evidence{fmt.Sprintf("/proc/%d/comm", p.pid), p.comm + at}
		name := fmt.Sprintf("%s (%s, pid %d)", ikeDaemons[p.comm], p.comm, p.pid)
		switch {
		case here == No || c.Answer == No:
			c.Evidence = append(c.Evidence, e)
		case here == Unknown:
			c.Answer, c.Why, c.Evidence = Unknown, name+" is running, whether in this network namespace is not shown to this user", []Evidence{e}
		default:
			c.Answer, c.Why, c.Evidence = No, name+" keeps SAs and policies of its own: either may remove the other's", []Evidence{e}
			c.Fix = "Leave the SAs of this host to one of them: " + s.endIt(p) + ", or do not use espalier for hosts that it serves."
		}
	}
	return c
}

// sameNamespace tells whether a process is in this network namespace: SAs of others are none of
// this host's.
func (s *survey) sameNamespace(pid int) (Answer, string) {
	own, err := fs.ReadLink(s.root, "proc/thread-self/ns/net")
	if err != nil {
		own, err = fs.ReadLink(s.root, "proc/self/ns/net")
	}
	its, err2 := fs.ReadLink(s.root, fmt.Sprintf("proc/%d/ns/net", pid))
	switch {
	case err != nil || err2 != nil:
		return Unknown, ""
	case own != its:
		return No, ", in another network namespace"
	}
	return Yes, ""
}

// endIt is how a daemon is ended: by its unit, which its control group names (systemd).
func (s *survey) endIt(p process) string {
	text, _ := fs.ReadFile(s.root, fmt.Sprintf("proc/%d/cgroup", p.pid))
	for line := range strings.Lines(string(text)) {
		unit := path.Base(strings.TrimSpace(line))
		if strings.HasSuffix(unit, ".service") && !strings.HasPrefix(unit, "user@") {
			return "systemctl disable --now " + strings.TrimSuffix(unit, ".service")
		}
	}
	return "end " + p.comm
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
				c.Evidence = append(c.Evidence, Evidence{"/" + file, fmt.Sprintf("port %d, inode %s", u.port, u.inode)})
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
		sockets = append(sockets, udpSocket{uint16(n), words[9]})
	}
	return sockets
}
