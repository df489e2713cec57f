package accept

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"espalier/probe"
	"espalier/remote"
)

// look asks both hosts what they have, and settles on devices and addresses. It changes nothing.
func (r *run) look(ctx context.Context) error {
	var all sync.WaitGroup
	errs := make([]error, 2)
	for i, h := range r.hosts() {
		all.Go(func() { errs[i] = r.lookAt(ctx, h) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.choose(); err != nil {
		return err
	}
	for _, h := range r.hosts() {
		if err := h.examine(ctx); err != nil {
			return err
		}
	}
	if err := r.chooseTool(ctx); err != nil {
		return err
	}
	return r.notOverItself()
}

// chooseTool takes iperf3 if both hosts have it.
func (r *run) chooseTool(ctx context.Context) error {
	with := 0
	for _, h := range r.hosts() {
		found, err := remote.Call[[]string](ctx, h.Conn, "accept-tools", struct{}{}, nil)
		if err != nil {
			return err
		}
		if slices.Contains(found, iperf3) {
			with++
		}
	}
	if with == 2 && !r.OwnTraffic {
		r.tool = iperf3
	}
	return nil
}

func (r *run) lookAt(ctx context.Context, h *Host) (err error) {
	if h.links, err = remote.Call[[]Link](ctx, h.Conn, "accept-links", r.session(h), nil); err != nil {
		return err
	}
	if h.Conn.Hello().UID != 0 {
		return fmt.Errorf("%s: this needs root there", h.Conn.Host())
	}
	return nil
}

// session is how the host sees the connection to it. The host that this runs on has none: it is seen
// from the other end of the connection to its peer.
func (r *run) session(h *Host) linksQuestion {
	s := h.Conn.Session()
	if !s.Client.IsValid() {
		s = r.peer(h).Conn.Session()
		s.Client, s.Server = s.Server, s.Client
	}
	return linksQuestion{Client: s.Client, Server: s.Server}
}

// examine has the doctor look at the device.
func (h *Host) examine(ctx context.Context) error {
	answer, err := h.Conn.Run(ctx, "doctor", []string{"-o", "json", "--", h.Device}, nil, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer.Stdout, &h.doctor); err != nil || answer.Code == 1 || answer.Code == 2 { // no report
		return fmt.Errorf("%s: the doctor ended with status %d: %s", h.Conn.Host(), answer.Code, strings.TrimSpace(answer.Stderr))
	}
	return nil
}

// ends are a device and an address of each host.
type ends struct {
	a, b   Link
	pa, pb netip.Prefix
}

// choose takes the devices and addresses that were named, and finds the others: both hosts must
// have an address in the same network. Where several do, those are preferred by which no
// connection comes in, and that have a driver.
func (r *run) choose() error {
	var found []ends
	for _, a := range r.A.candidates() {
		for _, b := range r.B.candidates() {
			for _, pa := range a.Addresses {
				for _, pb := range b.Addresses {
					if pa.Addr().Is4() && pb.Addr().Is4() && pa.Masked() == pb.Masked() && pa.Addr() != pb.Addr() && r.A.wants(pa) && r.B.wants(pb) {
						found = append(found, ends{a, b, pa, pb})
					}
				}
			}
		}
	}
	if r.A.Address.IsValid() && r.B.Address.IsValid() && len(found) == 0 {
		found = r.named() // a router may be between them
	}
	for _, better := range []func(ends) bool{
		func(e ends) bool { return !e.a.Management && !e.b.Management },
		func(e ends) bool { return e.a.Driver != "" && e.b.Driver != "" },
	} {
		if some := slices.DeleteFunc(slices.Clone(found), func(e ends) bool { return !better(e) }); len(some) > 0 {
			found = some
		}
	}
	switch len(found) {
	case 1:
	case 0:
		return fmt.Errorf("no IPv4 network joins the two hosts; %s has %s; %s has %s; say which with --address-a and --address-b",
			r.A.Conn.Host(), describe(r.A.links), r.B.Conn.Host(), describe(r.B.links))
	default:
		return fmt.Errorf("%d pairs of addresses join the two hosts: %s has %s; %s has %s; say which with --address-a and --address-b",
			len(found), r.A.Conn.Host(), describe(r.A.links), r.B.Conn.Host(), describe(r.B.links))
	}
	e := found[0]
	r.A.link, r.A.Device, r.A.Address = e.a, e.a.Name, e.pa.Addr()
	r.B.link, r.B.Device, r.B.Address = e.b, e.b.Name, e.pb.Addr()
	return nil
}

// candidates are the devices that may be meant.
func (h *Host) candidates() []Link {
	return slices.DeleteFunc(slices.Clone(h.links), func(l Link) bool { return !l.Up || h.Device != "" && l.Name != h.Device })
}

func (h *Host) wants(p netip.Prefix) bool { return !h.Address.IsValid() || p.Addr() == h.Address }

// named are the ends that have the addresses asked for, whatever networks they are in.
func (r *run) named() (found []ends) {
	for _, a := range r.A.candidates() {
		for _, b := range r.B.candidates() {
			for _, pa := range a.Addresses {
				for _, pb := range b.Addresses {
					if pa.Addr() == r.A.Address && pb.Addr() == r.B.Address && pa.Addr().Is4() && pb.Addr().Is4() {
						found = append(found, ends{a, b, pa, pb})
					}
				}
			}
		}
	}
	return found
}

func describe(links []Link) string {
	var all []string
	for _, l := range links {
		for _, a := range l.Addresses {
			if a.Addr().Is4() {
				all = append(all, fmt.Sprintf("%s on %s", a, l.Name))
			}
		}
	}
	if all == nil {
		return "none"
	}
	return strings.Join(all, ", ")
}

// notOverItself refuses to put a connection that is needed to take things back into ESP.
func (r *run) notOverItself() error {
	for _, h := range r.hosts() {
		s := h.Conn.Session()
		if s.Server.Unmap() == h.Address && s.Client.Unmap() == r.peer(h).Address {
			return fmt.Errorf("the connection to %s goes from %s to %s, which are the addresses to be tried: it would be cut; reach %[1]s by another address, "+
				"or start this on a third host", h.Conn.Host(), s.Client, s.Server)
		}
	}
	return nil
}

// nothingThere looks for SAs and policies between the two addresses: none may be there before, and none
// is to be left.
func (r *run) nothingThere(ctx context.Context, s *StepReport) error {
	for _, h := range r.hosts() {
		var states struct {
			States []struct{ Src, Dst, SPI string } `json:"states"`
		}
		if err := h.xfrm(ctx, "state", &states); err != nil {
			return err
		}
		var policies struct {
			Policies []struct {
				Dir      string                    `json:"dir"`
				Socket   bool                      `json:"socket"` // another program's own, of one socket
				Selector struct{ Src, Dst string } `json:"sel"`
			} `json:"policies"`
		}
		if err := h.xfrm(ctx, "policy", &policies); err != nil {
			return err
		}
		for _, x := range states.States {
			if r.between(x.Src, x.Dst) {
				return fmt.Errorf("host %s has an SA between the two addresses, SPI %s", h.label, x.SPI)
			}
		}
		for _, p := range policies.Policies {
			if !p.Socket && r.between(p.Selector.Src, p.Selector.Dst) {
				return fmt.Errorf("host %s has a policy (%s) between the two addresses", h.label, p.Dir)
			}
		}
	}
	s.fact("no SA and no policy between the two addresses")
	return nil
}

// between reports whether two prefixes or addresses take in both ends. An empty one is everything.
func (r *run) between(src, dst string) bool {
	covers := func(text string, a netip.Addr) bool {
		if text == "" {
			return true
		}
		if p, err := netip.ParsePrefix(text); err == nil {
			return p.Contains(a)
		}
		return text == a.String()
	}
	a, b := r.A.Address, r.B.Address
	return covers(src, a) && covers(dst, b) || covers(src, b) && covers(dst, a)
}

// xfrm lists the states or policies of the SAD and SPD that will be used.
func (h *Host) xfrm(ctx context.Context, object string, into any) error {
	answer, err := h.Conn.Run(ctx, "xfrm", append(h.sad(), "-o", "json", object, "list"), nil, nil)
	if err != nil {
		return err
	}
	if answer.Code != 0 {
		return fmt.Errorf("host %s: list %s: %s", h.label, object, strings.TrimSpace(answer.Stderr))
	}
	if err := json.Unmarshal(answer.Stdout, into); err != nil {
		return fmt.Errorf("host %s: what espalier xfrm says cannot be read: %w", h.label, err)
	}
	return nil
}

// notYes are the answers of the doctor that are worth a line in a report.
func notYes(report probe.Report) (lines []string) {
	layers := report.Layers
	for _, d := range report.Devices {
		layers = append(slices.Clone(layers), d.Layers...)
	}
	for _, l := range layers {
		for _, c := range l.Checks {
			if c.Answer != probe.Yes && c.Weight != probe.Informs {
				lines = append(lines, fmt.Sprintf("%s: %s: %s (%s)", c.ID, c.Answer, c.Why, c.Weight))
			}
		}
	}
	return lines
}
