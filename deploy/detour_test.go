package deploy

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/remote"
	"espalier/tunnel"
)

// TestDetour: ssh goes outside of a tunnel only to a host from which nothing comes, only where there is a tunnel, and
// no longer than it helps.
func TestDetour(t *testing.T) {
	silent := &remote.Error{Host: "db2", Reason: remote.Unreachable, Detail: "ssh: connect to host db2 port 22: Connection timed out"}
	refused := &remote.Error{Host: "db2", Reason: remote.Unreachable, Detail: "ssh: connect to host db2 port 22: Connection refused"}
	denied := &remote.Error{Host: "db2", Reason: remote.Denied, Detail: "Permission denied (publickey)."}
	for name, c := range map[string]struct {
		dials   []error // what comes of one after the other
		tunnels []string
		asked   []bool // to end it
		err     error
	}{
		"it answers":              {[]error{nil}, []string{"db"}, nil, nil},
		"refused":                 {[]error{refused}, []string{"db"}, nil, refused},
		"denied":                  {[]error{denied}, []string{"db"}, nil, denied},
		"silent, and no tunnel":   {[]error{silent}, nil, []bool{false}, silent},
		"back outside of it":      {[]error{silent, nil}, []string{"db"}, []bool{false, true}, nil},
		"dead":                    {[]error{silent, silent}, []string{"db"}, []bool{false, true}, silent},
		"outside of it, and shut": {[]error{silent, denied}, []string{"db"}, []bool{false, true}, denied},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []bool
			at := []netip.Addr{netip.MustParseAddr("192.0.2.2")}
			var said bytes.Buffer
			d := &detour{host: "db2", remotes: at, tell: &said, local: remote.Operations{
				steps.Detour: remote.JSON(func(_ context.Context, q steps.DetourQuestion, _ remote.Progress) (a steps.DetourAnswer, _ error) {
					if asked = append(asked, q.End); !slices.Equal(q.Remotes, at) {
						t.Errorf("%+v", q)
					}
					a.Tunnels = c.tunnels
					return a, nil
				}),
			}}
			dials := 0
			h := Host{detour: d, Dial: d.around(func(context.Context) (*remote.Conn, error) {
				dials++
				if err := c.dials[dials-1]; err != nil {
					return nil, err
				}
				return remote.Local("db2", nil), nil
			})}
			var err error
			h.Conn, err = h.Dial(t.Context())
			h.close()
			if !errors.Is(err, c.err) || dials != len(c.dials) || !slices.Equal(asked, c.asked) {
				t.Errorf("%v; %d dials, asked %v", err, dials, asked)
			}
			if told := strings.Contains(said.String(), "ssh goes outside of it until the tunnel is back"); told != (len(asked) == 2) {
				t.Errorf("it says %q", &said)
			}
		})
	}
}

// TestDetoursOfAPlan: a pair knows the ssh that it protects, at both ends, and tells of it; not ssh by other addresses,
// nor what is bypassed.
func TestDetoursOfAPlan(t *testing.T) {
	client, server := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	policies := func(local, remote netip.Addr, bypass uint16, atServer bool) (all []tunnel.Policy) {
		for _, d := range []ipsec.Direction{ipsec.Outbound, ipsec.Inbound} {
			s := ipsec.Selector{Src: netip.PrefixFrom(local, 32), Dst: netip.PrefixFrom(remote, 32)}
			if d == ipsec.Inbound {
				s.Src, s.Dst = s.Dst, s.Src
			}
			all = append(all, tunnel.Policy{Policy: ipsec.Policy{Selector: s, Direction: d, Priority: 1000, Processing: []ipsec.Processing{{RequestID: 7}}}})
			if s.Protocol = 6; (d == ipsec.Inbound) == atServer {
				s.DstPort = ipsec.Port(bypass)
			} else {
				s.SrcPort = ipsec.Port(bypass)
			}
			all = append(all, tunnel.Policy{Policy: ipsec.Policy{Selector: s, Direction: d, Priority: 900, Action: ipsec.Bypass}})
		}
		return all
	}
	for name, c := range map[string]struct {
		session remote.Session
		bypass  uint16
		noted   bool
	}{
		"the protected addresses": {remote.Session{Client: client, Server: server, Port: 2222}, 22, true},
		"bypassed":                {remote.Session{Client: client, Server: server, Port: 22}, 22, false},
		"from elsewhere":          {remote.Session{Client: netip.MustParseAddr("192.0.2.9"), Server: server, Port: 2222}, 22, false},
		"not known":               {remote.Session{}, 22, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := &tunnel.Pair{Ends: [2]tunnel.End{
				{Host: 0, Local: client, Remote: server, Policies: policies(client, server, c.bypass, false)},
				{Host: 1, Local: server, Remote: client, Policies: policies(server, client, c.bypass, true)},
			}}
			if noteDetour(p, c.session, 1, []Host{{}, {Host: tunnel.Host{SSH: config.SSH{To: "db2"}}}}) != c.noted {
				t.Errorf("noted: %v", !c.noted)
			}
			var want [2][]tunnel.Detour
			if c.noted {
				want = [2][]tunnel.Detour{{{Local: client, Remote: server, Port: 2222}}, {{Local: server, Remote: client, Port: 2222, Serves: true}}}
			}
			for i := range want {
				if !slices.Equal(p.Ends[i].Detours, want[i]) {
					t.Errorf("end %d: %+v", i, p.Ends[i].Detours)
				}
			}
		})
	}
}
