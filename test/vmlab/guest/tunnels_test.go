package guest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"espalier/deploy"
	"espalier/deploy/host"
	"espalier/deploy/steps"
	"espalier/internal/wire"
	"espalier/ipsec"
	"espalier/test/lab"
	tunnels "espalier/tunnel"
	"espalier/verdict"
)

// networks behind the hosts.
var networks = [2][]netip.Prefix{
	{netip.MustParsePrefix("10.1.0.1/24"), netip.MustParsePrefix("fd10:1::1/64")},
	{netip.MustParsePrefix("10.2.0.1/24"), netip.MustParsePrefix("fd10:2::1/64")},
}

// Two tunnels: all that the hosts say to each other by IPv4, and between their networks, inside of IPv6.
const twoTunnels = `tunnels:
  - name: db
    hosts: [{address: 192.168.1.64, dev: p4p1}, {address: 192.168.1.65, dev: p4p1, ssh: root@B}]
    offload: auto
  - name: net
    hosts:
      - {address: "fd00:192:168:1::64", dev: p4p1, subnets: [10.1.0.0/24, "fd10:1::/64"]}
      - {address: "fd00:192:168:1::65", dev: p4p1, ssh: root@B, subnets: [10.2.0.0/24, "fd10:2::/64"]}
    offload: auto
`

// oneTunnel is db alone, with other settings.
func oneTunnel(settings string) string {
	return "tunnels:\n  - name: db\n    hosts: [{address: 192.168.1.64, dev: p4p1}, {address: 192.168.1.65, dev: p4p1, ssh: root@B}]\n    " + settings + "\n"
}

// addNetworks puts a network behind each host, and routes to them.
func (s *site) addNetworks(t *testing.T) {
	t.Helper()
	hops := [2][]netip.Addr{{lab.B4, lab.B6}, {lab.A4, lab.A6}}
	for i, h := range s.Hosts() {
		h.Must("ip", "link", "add", "lan0", "type", "dummy")
		h.Must("ip", "link", "set", "lan0", "addrgenmode", "none", "up")
		for j, n := range networks[i] {
			h.Must("ip", append([]string{"addr", "add", n.String(), "dev", "lan0"}, map[bool][]string{true: {"nodad"}}[n.Addr().Is6()]...)...)
			h.Must("ip", "route", "add", networks[1-i][j].Masked().String(), "via", hops[i][j].String(), "src", n.Addr().String())
		}
	}
}

// flows are pairs of addresses between which the two tunnels protect.
func flows() [][2]netip.Addr {
	all := [][2]netip.Addr{{lab.A4, lab.B4}}
	for j := range networks[0] {
		all = append(all, [2]netip.Addr{networks[0][j].Addr(), networks[1][j].Addr()})
	}
	return all
}

// watchTunnels is watchCable for the traffic between the networks as well.
func watchTunnels(t *testing.T) *capture {
	t.Helper()
	c := lab.Classifier()
	for i := range networks {
		for j, n := range networks[i] {
			c.Protected = append(c.Protected, ipsec.Selector{Src: n.Masked(), Dst: networks[1-i][j].Masked()})
		}
	}
	return watchCableFor(t, c)
}

// cleartext is how much of it was on the cable, once no more comes.
func cleartext(w *wire.Watcher) uint64 {
	for last := w.Counts().Cleartext; ; {
		time.Sleep(50 * time.Millisecond)
		now := w.Counts().Cleartext
		if now == last {
			return now
		}
		last = now
	}
}

// The whole life of tunnels on the NIC, under traffic that must not notice.
func TestTunnelsOnNIC(t *testing.T) {
	s := newSite(t)
	s.addNetworks(t)
	cable := watchTunnels(t)

	// Set up.
	var once sync.Once
	var sealed uint64 // what was in clear when all had been told to send ESP
	s.before = func(phase string, _ []byte) {
		if phase == steps.Probe {
			once.Do(func() { sealed = cleartext(cable.watcher) })
		}
	}
	nic := s.sums(t)
	end := s.streams(t, flows()...)
	r := s.must(tunnels.Apply, twoTunnels, deploy.Confirmed)
	s.before = nil
	end()
	s.mustDropNothing("apply")
	if sealed == 0 {
		t.Error("no traffic was there before: that nothing is lost or in clear proves nothing")
	}
	s.mustBeOnNIC(t, r, 8)
	for i, now := range s.sums(t) {
		got := now.since(nic[i])
		if got.Numbered == 0 || got.Numbered != got.Encrypted || got.Accepted == 0 || got.Accepted != got.Decrypted || got.Failed > 0 {
			t.Errorf("host %s: SAs and NIC count %+v", s.Hosts()[i].Name, got)
		}
	}
	if r, err := s.change(tunnels.Apply, twoTunnels); err != nil || r.Result != deploy.Unchanged {
		t.Errorf("apply again: %+v, %v", r, err)
	}

	// New keys.
	end = s.streams(t, flows()...)
	s.exchangeWhile(t, networks[1][0].Addr(), func() { r = s.must(tunnels.Rotate, twoTunnels, deploy.Confirmed) })
	end()
	s.mustBeOnNIC(t, r, 8)
	s.mustDropNothing("rotate")
	before := s.sums(t)
	if !s.A.Ping(lab.B4, 3) || !s.B.Ping(networks[0][1].Addr(), 3) {
		t.Error("ping failed")
	}
	for i, now := range s.sums(t) {
		if got := now.since(before[i]); got.Numbered < 6 || got.Numbered != got.Encrypted || got.Accepted != got.Decrypted || got.Failed > 0 {
			t.Errorf("after rotations host %s: SAs and NIC count %+v", s.Hosts()[i].Name, got)
		}
	}

	// Everything is taken away behind its back.
	s.flush(t)
	for _, pair := range flows() {
		if s.passes(t, pair, 50*time.Millisecond) {
			t.Errorf("%s → %s passes without SAs and policies", pair[0], pair[1])
		}
	}
	for _, h := range s.Hosts() {
		if c := guardCounters(t, h); h == s.A && c.Out == 0 {
			t.Errorf("the guard of host %s has counted %+v", h.Name, c)
		}
	}
	r = s.must(tunnels.Apply, twoTunnels, deploy.Confirmed)
	s.mustBeOnNIC(t, r, 8)
	s.mustBeHardware(t)
	if counts, _ := cable.stop(t); counts.Cleartext != sealed || counts.ESP == 0 {
		t.Errorf("on the cable: %+v, of which %d in clear were from before", counts, sealed)
	}

	// Away with it.
	end = s.streams(t, flows()...)
	s.must(tunnels.Down, twoTunnels, deploy.Confirmed)
	end()
	s.mustBeBare("after down")
	for _, h := range s.Hosts() {
		if drops := s.drops(t, h); len(drops) > 0 {
			t.Logf("host %s has dropped, with its SAs flushed, %v", h.Name, drops)
		}
	}
}

// mustBeOnNIC fails unless all SAs are offloaded, and judged to be. This machine may be too slow for a
// verdict under traffic: see mustBeHardware.
func (s *site) mustBeOnNIC(t *testing.T, r *deploy.Report, sas int) {
	t.Helper()
	if len(r.SAs) != sas {
		t.Errorf("%d SAs, want %d", len(r.SAs), sas)
	}
	for _, sa := range r.SAs {
		judged := sa.Verdict == verdict.Hardware || sa.Reason == string(verdict.Coarse)
		if sa.Offload != "crypto" || !sa.ESN || !judged {
			t.Errorf("%+v", sa)
		}
	}
	for _, h := range s.Hosts() {
		if list := s.sas(h); len(list) != sas/2 || onNICs(list) != len(list) {
			t.Errorf("host %s: %d SAs, %d on the NIC", h.Name, len(list), onNICs(list))
		}
	}
}

// mustBeHardware judges all SAs while packets go through them. Heartbeats may come while counters are read.
func (s *site) mustBeHardware(t *testing.T) {
	t.Helper()
	for _, h := range s.Hosts() {
		o := s.observer(t, h)
		for left := 10; ; left-- {
			seen, err := o.During(context.Background(), func(context.Context) error {
				if !s.A.Ping(lab.B4, 3) || !s.A.Ping(networks[1][0].Addr(), 3) {
					t.Error("ping failed")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(seen.Judgements, func(j verdict.Judgement) bool { return j.Verdict != verdict.Hardware })
			if i < 0 && len(seen.Judgements) == 4 {
				break
			}
			if left == 0 || i < 0 || seen.Judgements[i].Reason != verdict.Coarse {
				t.Errorf("host %s: %+v", h.Name, seen.Judgements)
				break
			}
		}
	}
}

// passes sends one datagram from A to B.
func (s *site) passes(t *testing.T, pair [2]netip.Addr, patience time.Duration) bool {
	t.Helper()
	from, to := socketOn(t, s.A, pair[0]), socketOn(t, s.B, pair[1])
	defer from.Close()
	defer to.Close()
	from.WriteTo(plaintext, to.LocalAddr()) // whether it comes is what counts
	to.SetReadDeadline(time.Now().Add(patience))
	_, err := to.Read(make([]byte, 1<<10))
	return err == nil
}

// What a NIC or a kernel refuses is undone, and what was there before goes on.
func TestTunnelsRefused(t *testing.T) {
	s := newSite(t)
	direct := [2]netip.Addr{lab.A4, lab.B4}

	t.Run("required", func(t *testing.T) {
		s := s.in(t)
		setParameter(t, "fault", "none,eopnotsupp")
		end := s.streams(t, direct)
		r, err := s.change(tunnels.Apply, oneTunnel("offload: require"))
		var unmet *deploy.Unmet
		if r == nil || r.Result != deploy.NotMet || !errors.As(err, &unmet) {
			t.Fatalf("%+v, %v", r, err)
		}
		end()
		s.mustDropNothing("apply")
		s.mustBeBare("after what was required was refused")
	})

	t.Run("packet offload", func(t *testing.T) {
		s := s.in(t)
		end := s.streams(t, direct)
		r, err := s.change(tunnels.Apply, oneTunnel("offload: packet"))
		if r == nil || r.Result != deploy.RolledBack || err == nil {
			t.Fatalf("%+v, %v", r, err)
		}
		end()
		s.mustBeBare("after packet offload was refused")
	})

	t.Run("the NIC's table is full", func(t *testing.T) {
		s := s.in(t)
		s.must(tunnels.Apply, oneTunnel("offload: auto"), deploy.Confirmed)
		old := map[*lab.Host]string{}
		for _, h := range s.Hosts() {
			old[h] = identities(s, h)
		}
		setParameter(t, "max_sas", "1024,3")
		cable := watchCable(t)
		end := s.streams(t, direct)
		r, err := s.change(tunnels.Rotate, oneTunnel("offload: auto"))
		if r == nil || r.Result != deploy.RolledBack || err == nil ||
			!strings.Contains(err.Error(), "No space in the SA table") && !strings.Contains(err.Error(), "Device failed to offload") { // 6.1
			t.Errorf("%+v, %v", r, err)
		}
		s.exchangeWhile(t, lab.B4, func() {})
		// New inbound SAs go once the old ones are heard again, and enough time has passed.
		for start := time.Now(); len(s.sas(s.A))+len(s.sas(s.B)) > 4 && time.Since(start) < time.Minute; {
			time.Sleep(host.Every)
			s.pass(changeTime)
		}
		end()
		for _, h := range s.Hosts() {
			if now := identities(s, h); now != old[h] {
				t.Errorf("host %s had\n%s, and has\n%s", h.Name, old[h], now)
			}
		}
		s.spared = "XfrmOutStateInvalid" // see streams
		s.mustDropNothing("rotate")
		if counts, _ := cable.stop(t); counts.Cleartext > 0 || counts.ESP == 0 {
			t.Errorf("on the cable: %+v", counts)
		}
		s.must(tunnels.Down, oneTunnel("offload: auto"), deploy.Confirmed)
		s.mustBeBare("after down")
	})
}

// in is the site for a subtest.
func (s *site) in(t *testing.T) *site {
	return &site{nicLab: s.nicLab, t: t, hosts: s.hosts, phase: s.phase}
}

// identities are the SAs of a host.
func identities(s *site, h *lab.Host) string {
	var all []string
	for _, sa := range s.sas(h) {
		all = append(all, sa.ID().String())
	}
	return strings.Join(all, "\n")
}

// ESP in UDP takes somebody who holds the port; a tunnel has him.
func TestTunnelsInUDP(t *testing.T) {
	s := newSite(t)
	file := oneTunnel("encap: udp")
	direct := [2]netip.Addr{lab.A4, lab.B4}
	end := s.streams(t, direct)
	r := s.must(tunnels.Apply, file, deploy.Confirmed)
	cable := watchCable(t)
	s.exchangeWhile(t, lab.B4, func() { r = s.must(tunnels.Rotate, file, deploy.Confirmed) })
	for _, sa := range r.SAs {
		if sa.Offload != "no" || sa.Verdict == verdict.Hardware {
			t.Errorf("%+v", sa)
		}
	}
	counts, _ := cable.stop(t)
	if counts.Cleartext > 0 || counts.ESP == 0 {
		t.Errorf("on the cable: %+v", counts)
	}
	s.mustDropNothing("rotate")
	s.must(tunnels.Down, file, deploy.Confirmed)
	end()
	s.mustBeBare("after down")
	for _, h := range s.Hosts() { // nobody has the port any more
		err := h.Do(func() error {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 4500})
			if err == nil {
				conn.Close()
			}
			return err
		})
		if err != nil {
			t.Errorf("host %s: %v", h.Name, err)
		}
	}
}
