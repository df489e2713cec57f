package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/test/lab"
)

// theNICs is the truth about packets by both ports of a bond.
const theNICs truth = "the NIC, and then the other one"

const bond = "bond0"

// An active-backup bond of two NICs offloads its SAs to the active one, and takes them along when another one
// becomes that.
func TestVerdictBond(t *testing.T) {
	l := newBondLab(t)
	hosts := [2]*lab.Host{l.A, l.B}
	for _, h := range hosts {
		l.apply(t, h, strings.ReplaceAll(l.Script(h, pair4), "dev "+l.Device+" ", "dev "+bond+" "))
	}
	send := open(t, hosts, ways(false))
	o := observer(t, l.A, l.kernel[l.A], false, false)
	offloads := forKernel(t, "yes", "no") == "yes" // 6.1's bond hands SAs over, but encrypts what it sends
	cable := watchCable(t)
	look := func(name, verdict string, is func(since bondWork, direction int) truth, want truth, do func()) {
		t.Helper()
		before := l.bondWork(t)
		v := during(t, o, func() {
			do()
			l.comeToRest(t)
		})
		for i, direction := range []string{"sending", "receiving"} {
			is, sa := is(before, i), v.of(pair4.SPI+uint32(i))
			want, verdict := want, verdict
			if i == 0 && !offloads {
				want, verdict = theKernel, "UNKNOWN"
			}
			if is != want || sa == nil || sa.Verdict != verdict {
				t.Errorf("%s, %s: in truth %s, want %s; status says %+v, want %s", name, direction, is, want, sa, verdict)
				continue
			}
			Tell(elsewhereSection, name+", "+direction, string(is)+" → "+verdict)
		}
	}
	whole := func(before bondWork, direction int) truth {
		is, _ := l.bondWork(t).since(before, direction)
		return is
	}
	look("a bond of two NICs, the SAs are the bond's", "HARDWARE", whole, theNIC, send)
	var between bondWork
	look("another NIC becomes the active one of a bond", "UNKNOWN", func(before bondWork, direction int) truth {
		first, one := between.since(before, direction)
		second, other := l.bondWork(t).since(between, direction)
		switch {
		case first == theNIC && second == theNIC && one != other:
			return theNICs
		case first == second && first != theNIC:
			return first
		}
		return first + ", and then " + second
	}, theNICs, func() {
		send()
		l.comeToRest(t)
		between = l.bondWork(t)
		setParameter(t, "link", "0,0,1,1")
		l.awaitActive(t, "p4p2")
		send()
	})
	look("after another NIC has become the active one of a bond", "HARDWARE", whole, theNIC, send)
	_, packets := cable.stop(t)
	for i := range uint32(2) {
		if crossed, readable := onCable(packets, pair4.SPI+i); crossed < 4*burst || readable > 0 {
			t.Errorf("of %d packets on the cables %d can be read", crossed, readable)
		}
	}
}

// newBondLab joins two hosts by two cables, with a bond at both ends that has their IPv4 addresses.
func newBondLab(t *testing.T) *nicLab {
	t.Helper()
	l := newNICLab(t, "p4p1")
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close() })
	for i, h := range l.Hosts() {
		plugInAs(t, h, []string{"nic2", "nic3"}[i], "p4p2", home)
		h.Must("ip", "-batch", write(t, h, strings.NewReplacer("BOND", bond, "ADDRESS", addresses[i][0].String()).Replace(
			"link add BOND type bond mode active-backup miimon 20\n"+
				"address flush dev p4p1\nlink set p4p1 down\nlink set p4p1 master BOND\nlink set p4p2 down\nlink set p4p2 master BOND\n"+
				"link set BOND up\naddress add ADDRESS dev BOND\n")))
		t.Cleanup(func() { h.Must("ip", "link", "del", bond) })
	}
	l.neighbourOn(t, l.A, bond, lab.B4, l.B, bond)
	l.neighbourOn(t, l.B, bond, lab.A4, l.A, bond)
	t.Cleanup(func() { l.flush(t) })
	l.awaitActive(t, "p4p1")
	return l
}

// awaitActive waits until the bonds of both hosts send by a port.
func (l *nicLab) awaitActive(t *testing.T, port string) {
	t.Helper()
	for _, h := range l.Hosts() {
		for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			var active string
			inside(t, h, func() error {
				link, err := netlink.LinkByName(bond)
				if err != nil {
					return err
				}
				if b, ok := link.(*netlink.Bond); ok && link.Attrs().OperState == netlink.OperUp {
					if p, err := netlink.LinkByIndex(b.ActiveSlave); err == nil {
						active = p.Attrs().Name
					}
				}
				return nil
			})
			if active == port {
				break
			}
			if time.Since(start) > untilThere {
				t.Fatalf("host %s: the bond's active port is %q, and never %s", h.Name, active, port)
			}
		}
	}
}

// bondWork is what A's SAs have numbered or accepted, and what the engines of its ports have done for them.
type bondWork struct {
	moved [2]uint64
	by    [2][2]work // by direction and port
}

func (l *nicLab) bondWork(t *testing.T) (w bondWork) {
	t.Helper()
	for i, sa := range pair4.SAs() {
		s := l.state(t, l.A, sa)
		direction := []string{"out", "in"}[i]
		w.moved[i] = s.Current.Packets
		if i == 0 {
			w.moved[i] = uint64(s.Replay.OSeq)
		}
		for port := range w.by[i] {
			w.by[i][port] = engineWork(t, 2*port, direction, sa.SPI)
		}
	}
	return w
}

// since is who has encrypted or decrypted what was moved since an earlier moment, and if it is one port, which.
// What a port did for an SA goes when the bond takes the SA away from it.
func (w bondWork) since(before bondWork, direction int) (is truth, port int) {
	moved := w.moved[direction] - before.moved[direction]
	var done [2]uint64
	for port, now := range w.by[direction] {
		if old := before.by[direction][port]; now.encrypted >= old.encrypted && now.untouched+now.refused == 0 {
			done[port] = now.encrypted - old.encrypted
		}
	}
	switch {
	case moved == 0:
		return noPackets, 0
	case done == [2]uint64{moved, 0}:
		return theNIC, 0
	case done == [2]uint64{0, moved}:
		return theNIC, 1
	case done == [2]uint64{}:
		return theKernel, 0
	}
	return truth(fmt.Sprintf("not clear: %d packets, of which the ports did %d", moved, done)), 0
}
